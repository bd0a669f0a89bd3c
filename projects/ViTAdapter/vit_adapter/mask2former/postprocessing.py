"""Segmentations from the queries' classes and masks (arXiv 2112.01527; MaskFormer 2107.06278).

Shapes: B batch, Q queries, K classes, h/w grid of the mask logits (stride 4), H/W sides of the
output in pixels, N selected queries.
"""

from collections.abc import Callable, Collection

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

ResizeMasks = Callable[[Tensor], Tensor]
"""Maps mask logits (N, h, w) to the size of the output, (N, H, W)."""

_MASK_THRESHOLD = 0.5
_EPS = 1e-6


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Sum the queries' masks, weighted by their class probabilities.

    The scores are in [0, Q]; they are not logits and do not sum to one.

    Args:
        class_logits: (B, Q, K + 1), "no object" last.
        mask_logits: (B, Q, h, w).

    Returns:
        (B, K, h, w), float32 or wider.
    """
    probabilities, masks = _classes(class_logits), _wide(mask_logits).sigmoid()
    scores = probabilities.transpose(1, 2) @ masks.flatten(2)
    return scores.unflatten(-1, mask_logits.shape[-2:])


def instance_segmentation(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    resize: ResizeMasks,
    topk: int,
    thing_classes: Collection[int] = (),
) -> Instances:
    """Make objects from the most probable pairs of query and class.

    An object's score is its class probability times the mean probability within its mask.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: resizes masks to the output.
        topk: largest number of objects.
        thing_classes: classes that objects may have; empty for all.

    Returns:
        Instances of the size of the output with pred_masks (N, H, W) bool, their pred_boxes in
        pixels (all zero for an empty mask), scores and pred_classes, sorted by class probability.
    """
    probabilities = _classes(class_logits)
    if thing_classes:
        stuff = torch.ones_like(probabilities[0], dtype=torch.bool)
        stuff[list(thing_classes)] = False
        probabilities = probabilities.masked_fill(stuff, -1)
    num_queries, num_classes = probabilities.shape
    num_things = len(set(thing_classes)) or num_classes
    scores, best = probabilities.flatten().topk(min(topk, num_queries * num_things))
    logits = resize(_wide(mask_logits)[best // num_classes])  # (N, H, W)
    masks = logits > 0
    inside = (logits.sigmoid() * masks).flatten(1).sum(1) / (masks.flatten(1).sum(1) + _EPS)
    instances = Instances(tuple(logits.shape[-2:]))
    instances.pred_masks = masks
    instances.pred_boxes = Boxes(boxes_around(masks))
    instances.scores = scores * inside
    instances.pred_classes = best % num_classes
    return instances


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


def panoptic_segmentation(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    resize: ResizeMasks,
    thing_classes: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict]]:
    """Give each pixel to one query, drop segments that are mostly hidden, and merge equal stuff.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: resizes masks to the output.
        thing_classes: classes whose segments are separate objects.
        object_mask_threshold: queries with a lower class probability are dropped.
        overlap_threshold: segments that keep a smaller share of their mask are dropped.

    Returns:
        Segment ids, int32 (H, W), 0 for none; and for each segment a dict with "id" (from 1),
        "isthing" and "category_id".

    Raises:
        RuntimeError: called in ``torch.jit.trace``.
    """
    if torch.jit.is_tracing():
        raise RuntimeError(
            "torch.jit.trace cannot record panoptic segmentation, whose segments differ from image "
            "to image. Trace the model with panoptic_on=False, or give that to torch.export."
        )
    scores, labels = _wide(class_logits).softmax(-1).max(-1)
    is_object = labels != class_logits.shape[-1] - 1
    kept = (is_object & (scores > object_mask_threshold)).nonzero()[:, 0]
    masks = resize(_wide(mask_logits)[kept]).sigmoid()  # (N, H, W)
    if not len(kept):
        return torch.zeros(masks.shape[-2:], dtype=torch.int32, device=masks.device), []
    owner = (scores[kept, None, None] * masks).argmax(0)  # (H, W), into the N kept queries
    confident = masks.gather(0, owner[None])[0] >= _MASK_THRESHOLD
    owned = torch.bincount(owner.flatten(), minlength=len(kept))
    visible = torch.bincount(owner[confident], minlength=len(kept))
    claimed = (masks >= _MASK_THRESHOLD).flatten(1).sum(1)
    accepted = (visible > 0) & (owned >= overlap_threshold * claimed)
    id_of_query, segments = _number_segments(
        labels[kept].tolist(), accepted.tolist(), set(thing_classes)
    )
    ids = torch.tensor(id_of_query, dtype=torch.int32, device=masks.device)
    return ids[owner] * confident, segments


def _number_segments(
    labels: list[int], accepted: list[bool], things: set[int]
) -> tuple[list[int], list[dict]]:
    """Number the accepted queries from 1; queries of the same stuff class share a number."""
    segments: list[dict] = []
    id_of_stuff: dict[int, int] = {}
    id_of_query = []
    for label, is_accepted in zip(labels, accepted, strict=True):
        if not is_accepted:
            id_of_query.append(0)
        elif label in id_of_stuff:
            id_of_query.append(id_of_stuff[label])
        else:
            is_thing = label in things
            segments.append({"id": len(segments) + 1, "isthing": is_thing, "category_id": label})
            id_of_query.append(len(segments))
            if not is_thing:
                id_of_stuff[label] = len(segments)
    return id_of_query, segments


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _classes(class_logits: Tensor) -> Tensor:
    """Probabilities (..., Q, K), which sum to less than one without "no object"."""
    return _wide(class_logits).softmax(-1)[..., :-1]
