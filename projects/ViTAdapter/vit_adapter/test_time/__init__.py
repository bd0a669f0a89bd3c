"""Test-time methods: wrappers around a model that run it more than once on an image."""

from vit_adapter.test_time.multi_scale import MultiScaleFlip
from vit_adapter.test_time.sliding_window import SlidingWindow

__all__ = ["MultiScaleFlip", "SlidingWindow"]
