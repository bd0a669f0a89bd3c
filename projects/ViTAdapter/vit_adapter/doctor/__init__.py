"""``python -m vit_adapter.doctor``: what is installed, what works, and how to fix what does not."""
