"""Panoptic segmentation from the queries' classes and masks (MaskFormer, arXiv 2107.06278).

Shapes: Q queries, K classes, h/w grid of the mask logits (stride 4), H/W sides of the output in
pixels, N queries that may be segments.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from vit_adapter.mask2former.postprocessing import RULES, Rules, wide
from vit_adapter.mask2former.resizing import MaskResizer

_MASK_THRESHOLD = 0.5


class _Pixels(NamedTuple):
    """Which query each pixel belongs to.

    Attributes:
        owner: int64 (H, W), from 0 to N - 1.
        is_inside: bool (H, W), whether the mask of the owner covers the pixel.
        claimed: int64 (N,), pixels that each query's mask covers.
    """

    owner: Tensor
    is_inside: Tensor
    claimed: Tensor


def panoptic_segmentation(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    resize: MaskResizer,
    thing_classes: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
    rules: Rules = RULES["original"],
) -> tuple[Tensor, list[dict]]:
    """Give each pixel to one query, drop segments that are mostly hidden, and merge equal stuff.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: resizes masks to the output, (H, W).
        thing_classes: classes whose segments are separate objects.
        object_mask_threshold: queries with a lower class probability are dropped.
        overlap_threshold: segments that keep a smaller share of their mask are dropped.
        rules: whether pixels outside of their query's mask belong to no segment.

    Returns:
        Segment ids, int32 (H, W), 0 for none; and for each segment a dict with "id" (from 1),
        "isthing", "category_id" (a class of the model), "score" (the class probability; of merged
        stuff the highest) and "area" (in pixels).

    Raises:
        RuntimeError: called in ``torch.jit.trace``.
    """
    if torch.jit.is_tracing():
        raise RuntimeError(
            "torch.jit.trace cannot record panoptic segmentation, whose segments differ from image "
            "to image. Trace the model with panoptic_on=False, or give that to torch.export."
        )
    scores, labels = wide(class_logits).softmax(-1).max(-1)
    is_object = labels != class_logits.shape[-1] - 1
    kept = (is_object & (scores > object_mask_threshold)).nonzero()[:, 0]
    if not len(kept):
        return torch.zeros(resize.output_size, dtype=torch.int32, device=scores.device), []
    scores, labels = scores[kept], labels[kept]
    owner, is_inside, claimed = _assign_pixels(scores, wide(mask_logits[kept]), resize)
    owned = torch.bincount(owner.flatten(), minlength=len(kept))
    if rules.uncertain_is_void:
        visible = torch.bincount(owner[is_inside], minlength=len(kept))
    else:
        visible, is_inside = owned, torch.ones_like(is_inside)
    counts = torch.stack([labels, visible, owned, claimed]).tolist()
    candidates = [
        (label, score, area if area and of_mask and won / of_mask >= overlap_threshold else 0)
        for label, area, won, of_mask, score in zip(*counts, scores.tolist(), strict=True)
    ]
    id_of_query, segments = _number_segments(candidates, set(thing_classes))
    ids = torch.tensor(id_of_query, dtype=torch.int32, device=owner.device)
    return ids[owner] * is_inside, segments


def _assign_pixels(scores: Tensor, logits: Tensor, resize: MaskResizer) -> _Pixels:
    """Give each pixel to the query with the highest class probability times mask probability.

    Only a few masks at a time are resized, each once.

    Args:
        scores: class probabilities (N,).
        logits: mask logits (N, h, w).
        resize: resizes masks to the output, (H, W).
    """
    best = scores.new_full(resize.output_size, -1)
    owner = torch.zeros(resize.output_size, dtype=torch.int64, device=scores.device)
    is_inside = torch.zeros_like(owner, dtype=torch.bool)
    claimed = []
    for first, part in resize.in_parts(logits):
        masks = part.sigmoid_()
        claimed.append((masks >= _MASK_THRESHOLD).flatten(1).sum(1))
        best_of_part, index = (scores[first : first + len(masks), None, None] * masks).max(0)
        covers = masks.gather(0, index[None])[0] >= _MASK_THRESHOLD
        is_better = best_of_part > best
        best = torch.where(is_better, best_of_part, best)
        owner = torch.where(is_better, index + first, owner)
        is_inside = torch.where(is_better, covers, is_inside)
    return _Pixels(owner, is_inside, torch.cat(claimed))


def _number_segments(
    candidates: list[tuple[int, float, int]], things: set[int]
) -> tuple[list[int], list[dict]]:
    """Number the accepted queries from 1; queries of the same stuff class share a number.

    Args:
        candidates: class, score and area of each query; the area is 0 if it is not accepted.
        things: classes whose segments are separate objects.

    Returns:
        The number of each query, 0 if it is not accepted, and the segments.
    """
    segments: list[dict] = []
    id_of_stuff: dict[int, int] = {}
    id_of_query = []
    for label, score, area in candidates:
        if not area:
            id_of_query.append(0)
            continue
        if label in id_of_stuff:
            segment = segments[id_of_stuff[label] - 1]
            segment["score"] = max(segment["score"], score)
            segment["area"] += area
        else:
            segment = {
                "id": len(segments) + 1,
                "isthing": label in things,
                "category_id": label,
                "score": score,
                "area": area,
            }
            segments.append(segment)
            if not segment["isthing"]:
                id_of_stuff[label] = segment["id"]
        id_of_query.append(segment["id"])
    return id_of_query, segments
