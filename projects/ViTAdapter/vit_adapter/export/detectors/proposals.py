"""Proposals of two-stage detectors as tensors of a fixed size.

Shapes: B batch, N candidates, R proposals of an image, H/W sides of the image.
"""

from collections.abc import Mapping

import torch
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor

from vit_adapter.detection.boxes import clip_boxes
from vit_adapter.export.detectors.anchors import grid_anchors
from vit_adapter.export.detectors.suppression import choose_rows, suppress, top_scores
from vit_adapter.layers import map_to_tokens

__all__ = ["find_proposals", "positive_scores"]


def find_proposals(
    rpn: RPN, features: Mapping[str, Tensor], image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Find the proposals that Detectron2's RPN finds in evaluation mode.

    Args:
        rpn: the network.
        features: maps of a pyramid.
        image_size: (H, W), before padding.

    Returns:
        Boxes (B, R, 4), best first, and whether each is a proposal (B, R). The other boxes are 0.
    """
    maps = [features[name] for name in rpn.in_features]
    boxes, scores, levels = [], [], []
    for level, outputs in enumerate(zip(maps, *rpn.rpn_head(maps), strict=True)):
        of_level = _decode(rpn, level, *outputs)
        boxes.append(of_level[0])
        scores.append(of_level[1])
        levels.append(torch.full_like(of_level[1], level, dtype=torch.int64))
    boxes, scores = torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
    scores = scores.masked_fill(~boxes.isfinite().all(-1), 0.0)
    boxes = clip_boxes(boxes, image_size)
    small = (boxes[..., 2:] - boxes[..., :2] <= rpn.min_box_size).any(-1)
    index, found = suppress(
        boxes,
        scores.masked_fill(small, 0.0),
        torch.cat(levels, dim=1),
        num_groups=len(maps),
        iou_threshold=rpn.nms_thresh,
        count=min(rpn.post_nms_topk[False], scores.shape[1]),
    )
    return torch.where(found[..., None], choose_rows(boxes, index), 0.0), found


def positive_scores(logits: Tensor) -> Tensor:
    """Map finite logits to positive numbers in the same order: 1 + x from 0 on, 1 / (1 - x) below.

    Unlike an exponential, nothing overflows or becomes 0, also in float16.
    """
    return (1 + logits.relu()) / (1 + (-logits).relu())


def _decode(
    rpn: RPN, level: int, features: Tensor, logits: Tensor, deltas: Tensor
) -> tuple[Tensor, Tensor]:
    """Decode the best anchors of a level: boxes (B, N, 4) and scores (B, N)."""
    logits = map_to_tokens(logits).flatten(1)
    # Positive, because the ONNX operator may drop other scores.
    scores = torch.where(logits.isfinite(), positive_scores(logits), 0.0)
    deltas = map_to_tokens(deltas).unflatten(2, (-1, 4)).flatten(1, 2)
    scores, index = top_scores(scores, rpn.pre_nms_topk[False])
    anchors = grid_anchors(rpn.anchor_generator, features, level)[index]
    deltas = choose_rows(deltas, index)
    boxes = rpn.box2box_transform.apply_deltas(deltas.flatten(0, 1), anchors.flatten(0, 1))
    return boxes.view_as(anchors), scores
