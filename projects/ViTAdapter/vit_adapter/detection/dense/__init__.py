"""One-stage detectors with one anchor per cell: ATSS and GFL."""

from vit_adapter.detection.dense.atss import ATSS, ATSSHead
from vit_adapter.detection.dense.gfl import GFL, GFLHead
from vit_adapter.detection.dense.pyramid import LastLevelStridedConvs

__all__ = [
    "ATSS",
    "GFL",
    "ATSSHead",
    "GFLHead",
    "LastLevelStridedConvs",
]
