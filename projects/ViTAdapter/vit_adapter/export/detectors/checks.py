"""Checks that a detector consists of parts whose computation is known.

The exported graph repeats what these parts do with Detectron2's data structures. A subclass may
do something else, so the types are compared exactly.
"""

from collections.abc import Iterator
from typing import Any

from detectron2.layers import ROIAlign
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, MaskRCNNConvUpsampleHead
from torch import nn

from vit_adapter.detection import FullPrecisionPooler, GIoUBoxPredictor
from vit_adapter.detection.htc import FlowMaskHead

__all__ = ["check_parts", "refuse"]

_POOLERS = (ROIPooler, FullPrecisionPooler)
_LIMITS = ("test_topk_per_image", "max_detections_per_image")
# Where parts of a detector are, and the types that can be exported. Names may be missing.
_KNOWN: dict[str, tuple[type, ...]] = {
    "anchor_generator": (DefaultAnchorGenerator,),
    "proposal_generator.anchor_generator": (DefaultAnchorGenerator,),
    "roi_heads.box_predictor": (FastRCNNOutputLayers, GIoUBoxPredictor),
    "roi_heads.mask_head": (MaskRCNNConvUpsampleHead, FlowMaskHead),
    "roi_heads.box_pooler": _POOLERS,
    "roi_heads.mask_pooler": _POOLERS,
    "roi_heads.box_pooler.level_poolers": (ROIAlign,),
    "roi_heads.mask_pooler.level_poolers": (ROIAlign,),
}


def check_parts(model: nn.Module) -> None:
    """Raise a TypeError or ValueError if a part of a detector cannot be exported."""
    for name, types in _KNOWN.items():
        for part in _find(model, name):
            if type(part) not in types:
                refuse(f"{name} of the model", part, types)
    for module in model.modules():
        if getattr(module, "keypoint_on", False):
            raise TypeError("cannot export a model that predicts keypoints, only boxes and masks")
        for limit in _LIMITS:
            if getattr(module, limit, 1) < 1:
                raise ValueError(
                    f"{limit} is {getattr(module, limit)}, which means no limit; an exported "
                    "detector has outputs of a fixed size: set it to a number such as 100"
                )


def refuse(what: str, part: Any, expected: tuple[type, ...]) -> None:
    """Raise the TypeError for a part of an unexpected type."""
    names = ", ".join(one.__name__ for one in expected)
    raise TypeError(
        f"cannot export {what}: it is a {type(part).__name__}, expected one of {names}. "
        "Subclasses are not exported, because they may compute something else."
    )


def _find(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The parts of a name, if there are any; those in lists one by one."""
    part: Any = model
    for step in name.split("."):
        part = getattr(part, step, None)
    if isinstance(part, nn.ModuleList):
        yield from part
    elif part is not None:
        yield part
