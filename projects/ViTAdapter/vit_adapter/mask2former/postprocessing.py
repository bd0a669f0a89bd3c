"""Segmentations from the queries' classes and masks (arXiv 2112.01527; MaskFormer 2107.06278).

Panoptic segmentation is in ``panoptic.py``.

Shapes: B batch, Q queries, K classes, h/w grid of the mask logits (stride 4), H/W sides of the
output in pixels, N selected queries.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from vit_adapter.mask2former.resizing import MaskResizer

_EPS = 1e-6


@dataclass(frozen=True)
class Rules:
    """What implementations of the post-processing do differently.

    Attributes:
        stuff_competes: whether the best pairs of query and class are chosen among all classes, and
            those of stuff are dropped afterwards. Otherwise they are chosen among the things.
        uncertain_is_void: whether a pixel belongs to no panoptic segment if the mask of its query
            has a probability below one half there.
    """

    stuff_competes: bool = True
    uncertain_is_void: bool = True


_PUBLISHED = Rules()
RULES = {
    "original": _PUBLISHED,  # MMDetection's, with the settings of the published model
    "mask2former": _PUBLISHED,  # facebookresearch/Mask2Former's, which are the same
    "things_first": replace(_PUBLISHED, stuff_competes=False),
    "hugging_face": replace(_PUBLISHED, uncertain_is_void=False),
}
"""The rules by name."""


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Sum the queries' masks, weighted by their class probabilities.

    The scores are in [0, Q]; they are not logits and do not sum to one.

    Args:
        class_logits: (B, Q, K + 1), "no object" last.
        mask_logits: (B, Q, h, w).

    Returns:
        (B, K, h, w), float32 or wider.
    """
    probabilities, masks = _classes(class_logits), wide(mask_logits).sigmoid()
    scores = probabilities.transpose(1, 2) @ masks.flatten(2)
    return scores.unflatten(-1, mask_logits.shape[-2:])


def semantic_scores_of_pixels(
    class_logits: Tensor, mask_logits: Tensor, *, resize: MaskResizer
) -> Tensor:
    """The same sum for one image, with masks that are resized before their sigmoid.

    Only a few masks at a time are resized, each once.

    Args:
        class_logits: (Q, K + 1), "no object" last.
        mask_logits: (Q, h, w).
        resize: resizes masks to the output, (H, W).

    Returns:
        (K, H, W), float32 or wider.
    """
    probabilities = _classes(class_logits)
    height, width = resize.output_size
    scores = probabilities.new_zeros(probabilities.shape[1], height * width)
    for first, part in resize.in_parts(wide(mask_logits)):
        of_part = probabilities[first : first + len(part)]
        scores.addmm_(of_part.T, part.sigmoid_().flatten(1))
    return scores.view(-1, height, width)


def instance_segmentation(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    resize: MaskResizer,
    topk: int,
    thing_classes: Collection[int] = (),
    rules: Rules = _PUBLISHED,
) -> Instances:
    """Make objects from the most probable pairs of query and class.

    An object's score is its class probability times the mean probability within its mask.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: resizes masks to the output, (H, W).
        topk: largest number of pairs.
        thing_classes: classes that objects may have; empty for all.
        rules: whether pairs of other classes count among the ``topk``.

    Returns:
        Instances of the size of the output with pred_masks (N, H, W) bool, their pred_boxes in
        pixels (all zero for an empty mask), scores and pred_classes, sorted by class probability.
    """
    probabilities = _classes(class_logits)
    num_queries, num_classes = probabilities.shape
    is_thing = torch.zeros(num_classes, dtype=torch.bool, device=probabilities.device)
    is_thing[list(thing_classes) or slice(None)] = True
    num_candidates = num_classes
    if not rules.stuff_competes:
        probabilities = probabilities.masked_fill(~is_thing, -1)
        num_candidates = len(set(thing_classes)) or num_classes
    scores, best = probabilities.flatten().topk(min(topk, num_queries * num_candidates))
    labels = best % num_classes
    if thing_classes and rules.stuff_competes:
        kept = is_thing[labels]
        scores, best, labels = scores[kept], best[kept], labels[kept]
    masks, certainties = _masks(wide(mask_logits[best // num_classes]), resize)
    instances = Instances(tuple(masks.shape[-2:]))
    instances.pred_masks = masks
    instances.pred_boxes = Boxes(boxes_around(masks))
    instances.scores = scores * certainties
    instances.pred_classes = labels
    return instances


def _masks(logits: Tensor, resize: MaskResizer) -> tuple[Tensor, Tensor]:
    """Masks (N, H, W) from (N, h, w), and the mean probability (N,) within each."""
    masks, certainties = [], []
    for _, part in resize.in_parts(logits):
        inside = part > 0
        area = inside.flatten(1).sum(1)
        certainties.append((part.sigmoid() * inside).flatten(1).sum(1) / (area + _EPS))
        masks.append(inside)
    return torch.cat(masks), torch.cat(certainties)


def boxes_around(masks: Tensor) -> Tensor:
    """Boxes (N, 4) around bool masks (N, H, W): (x0, y0, x1, y1) in pixels; zeros if empty.

    Detectron2's :meth:`BitMasks.get_bounding_boxes` waits for the device for each mask.
    """
    ends = []
    for dim in (1, 2):  # a column, then a row, is covered if any of its pixels is
        covered = masks.any(dim).to(torch.uint8)
        first = covered.argmax(-1)
        last = covered.shape[-1] - covered.flip(-1).argmax(-1)
        ends.append((first, last))
    (x0, x1), (y0, y1) = ends
    boxes = torch.stack([x0, y0, x1, y1], -1).float()
    return boxes * masks.flatten(1).any(1)[:, None]


def wide(logits: Tensor) -> Tensor:
    """Convert to float32 unless the type is wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _classes(class_logits: Tensor) -> Tensor:
    """Probabilities (..., Q, K), which sum to less than one without "no object"."""
    return wide(class_logits).softmax(-1)[..., :-1]
