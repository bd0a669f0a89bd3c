"""Test-time methods: wrappers around a model that run it more than once on an image.

``SlidingWindow`` and ``MultiScaleFlip`` are for semantic models, ``DetectorViews`` and
``DetectorTiles`` for detectors. ``Suppression`` is what a detector does with overlapping boxes.
``MixedPrecision`` runs any of them in 16 bits, ``GraphedModel`` runs the core of any as a graph.
"""

from vit_adapter.test_time.detector_tiles import DetectorTiles
from vit_adapter.test_time.detector_views import DetectorViews
from vit_adapter.test_time.graphs import GraphedModel
from vit_adapter.test_time.mixed_precision import MixedPrecision
from vit_adapter.test_time.multi_scale import MultiScaleFlip
from vit_adapter.test_time.sliding_window import SlidingWindow
from vit_adapter.test_time.suppression import Suppression

__all__ = [
    "DetectorTiles",
    "DetectorViews",
    "GraphedModel",
    "MixedPrecision",
    "MultiScaleFlip",
    "SlidingWindow",
    "Suppression",
]
