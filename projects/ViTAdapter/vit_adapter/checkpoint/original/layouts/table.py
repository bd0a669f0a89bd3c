"""The known layouts, and the parts of the original's models that are not supported."""

import re
from collections.abc import Iterable

from vit_adapter.checkpoint.original.layouts.backbone import BACKBONE, DETECTOR_BACKBONE
from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.layouts.mask2former import MASK2FORMER, PANOPTIC_MASK2FORMER
from vit_adapter.checkpoint.original.layouts.mask_rcnn import MASK_RCNN
from vit_adapter.checkpoint.original.layouts.upernet import UPERNET

__all__ = ["KNOWN_MODELS", "UNSUPPORTED", "layout_of_ours", "layout_of_theirs"]

_LAYOUTS = (
    MASK_RCNN,
    MASK2FORMER,
    PANOPTIC_MASK2FORMER,
    UPERNET,
    DETECTOR_BACKBONE,
    BACKBONE,
)
"""The first layout that recognises a name is used, so special ones come before general ones."""

KNOWN_MODELS = ", ".join(layout.name for layout in _LAYOUTS)
"""The names of all layouts, for messages."""

UNSUPPORTED = {
    r"roi_head\.(semantic_head|semantic_roi_extractor)\.": "the semantic branch of HTC++",
    r"neck\.\d+\.": "the neck of HTC++ (extra attention before the pyramid)",
    r"rpn_head\.init_proposal_": "the proposals of Sparse R-CNN",
    r"roi_head\.(bbox|mask)_head\.\d+\.": "the stages of Cascade Mask R-CNN, HTC++ or Sparse R-CNN",
    r"bbox_head\.atss_": "the head of ATSS",
    r"bbox_head\.(gfl_|integral\.)": "the head of GFL",
    r"bbox_head\.": "another one-stage head",
    r"neck\.convs\.": "the neck without a pyramid (1x1 convolutions alone)",
    r"neck\.(lateral|fpn)_convs\.\d+\.gn\.": "the group norms of the pyramid",
    r"neck\.fpn_convs\.": "the pyramid's extra levels (strided convolutions)",
    r"segmentation_model\.": "DINOv3's adapter, which reads the normalised outputs of its ViT",
    r"neck\.": "a neck other than a plain FPN",
}
"""Parts of the original's models that are not supported: pattern of their names -> description.

The first pattern that matches the start of a name is used.
"""


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
