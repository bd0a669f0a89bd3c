"""The known layouts, and the parts of the original's models that are not supported."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from vit_adapter.checkpoint.original.layouts.atss import ATSS
from vit_adapter.checkpoint.original.layouts.backbone import BACKBONE, DETECTOR_BACKBONE
from vit_adapter.checkpoint.original.layouts.cascade import CASCADE
from vit_adapter.checkpoint.original.layouts.dinov2 import DINOV2
from vit_adapter.checkpoint.original.layouts.dinov3 import DINOV3
from vit_adapter.checkpoint.original.layouts.gfl import GFL
from vit_adapter.checkpoint.original.layouts.htc import HTC
from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.layouts.mask2former import MASK2FORMER, PANOPTIC_MASK2FORMER
from vit_adapter.checkpoint.original.layouts.mask2former_authors import AUTHORS_MASK2FORMER
from vit_adapter.checkpoint.original.layouts.mask_rcnn import MASK_RCNN
from vit_adapter.checkpoint.original.layouts.sparse_rcnn import SPARSE_RCNN
from vit_adapter.checkpoint.original.layouts.upernet import UPERNET

__all__ = ["KNOWN_MODELS", "UNSUPPORTED", "layout_of_ours", "layout_of_theirs"]

_LAYOUTS = (
    HTC,
    CASCADE,
    ATSS,
    GFL,
    SPARSE_RCNN,
    MASK_RCNN,
    DINOV3,
    DINOV2,
    MASK2FORMER,
    PANOPTIC_MASK2FORMER,
    AUTHORS_MASK2FORMER,
    UPERNET,
    DETECTOR_BACKBONE,
    BACKBONE,
)
"""The first layout that recognises a name is used. A new one goes in front: the one of Mask R-CNN
takes every detector, and the one of UPerNet every segmentor."""

KNOWN_MODELS = ", ".join(f"{layout.name} ({layout.example})" for layout in _LAYOUTS)
"""The names of all layouts, each with an example of the original's names, for messages."""


class Unsupported(NamedTuple):
    """A part of the original's models that this project does not have.

    Attributes:
        pattern: regular expression that matches the start of its names.
        part: what it is, for messages.
        example: one of its names.
    """

    pattern: str
    part: str
    example: str


UNSUPPORTED = (
    Unsupported(
        r"roi_head\.(bbox|mask)_head\.\d+\.",
        "the stages of another detector",
        "roi_head.mask_head.0.instance_interactive_conv.fc_norm.bias",
    ),
    Unsupported(r"bbox_head\.", "another one-stage head", "bbox_head.retina_cls.weight"),
    Unsupported(
        r"neck\.(lateral|fpn)_convs\.\d+\.gn\.",
        "the group norms of the pyramid",
        "neck.fpn_convs.0.gn.bias",
    ),
    Unsupported(
        r"neck\.fpn_convs\.",
        "the pyramid's extra levels (strided convolutions)",
        "neck.fpn_convs.3.conv.weight",
    ),
    Unsupported(r"neck\.", "a neck other than a plain FPN", "neck.bottleneck.weight"),
)
"""The first whose pattern matches a name is used, so special ones come before general ones."""


def layout_of_theirs(names: Iterable[str]) -> Layout:
    """The layout of a checkpoint with the original's names; a backbone alone if none matches."""
    names = list(names)
    return next((layout for layout in _LAYOUTS if _fits(layout.theirs, names)), BACKBONE)


def layout_of_ours(names: Iterable[str], tree: str | None = None) -> Layout:
    """The same for our names; ``tree`` decides between layouts with the same names."""
    names = list(names)
    fitting = [layout for layout in _LAYOUTS if _fits(layout.ours, names)] or [BACKBONE]
    of_tree = (layout for layout in fitting if tree is not None and layout.tree == tree)
    return next(of_tree, fitting[0])


def _fits(beginning: str, names: Iterable[str]) -> bool:
    return any(re.match(beginning, name) for name in names)
