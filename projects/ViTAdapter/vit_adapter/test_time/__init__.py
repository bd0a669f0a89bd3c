"""Test-time methods: wrappers around a model that run it more than once on an image.

``SlidingWindow`` and ``MultiScaleFlip`` are for semantic models, ``DetectorViews`` and
``DetectorTiles`` for detectors.
"""

from vit_adapter.test_time.detector_tiles import DetectorTiles
from vit_adapter.test_time.detector_views import DetectorViews
from vit_adapter.test_time.multi_scale import MultiScaleFlip
from vit_adapter.test_time.sliding_window import SlidingWindow

__all__ = ["DetectorTiles", "DetectorViews", "MultiScaleFlip", "SlidingWindow"]
