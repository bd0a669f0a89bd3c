"""``python -m vit_adapter.install_detectron2``: Detectron2 v0.6, patched for current libraries.

Imports nothing but the standard library, because it runs before the dependencies are installed.
"""
