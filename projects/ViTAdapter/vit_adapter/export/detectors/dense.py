"""Detections of ATSS and GFL as tensors of a fixed size.

Shapes: B batch, K classes, H/W sides of the image.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vit_adapter.detection.boxes import clip_boxes, in_float32
from vit_adapter.detection.dense.detector import AssigningDetector
from vit_adapter.export.detectors.anchors import grid_anchors
from vit_adapter.export.detectors.detections import Candidates, Results, choose_results
from vit_adapter.export.detectors.suppression import choose_rows, top_scores
from vit_adapter.layers import map_to_tokens

__all__ = ["detect_densely"]


def detect_densely(
    model: AssigningDetector, features: Mapping[str, Tensor], image_size: tuple[int, int]
) -> Results:
    """Find the detections that the model finds in evaluation mode.

    Args:
        model: ATSS or GFL.
        features: maps of its pyramid.
        image_size: (H, W), before padding.
    """
    maps = [features[name] for name in model.head_in_features]
    levels = [
        _find_candidates(model, level, *outputs)
        for level, outputs in enumerate(zip(maps, *model.head(maps), strict=True))
    ]
    boxes, scores, classes = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    boxes = clip_boxes(boxes, image_size)
    filled = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    return choose_results(
        Candidates(boxes, scores.masked_fill(~filled, 0.0), classes),
        num_classes=model.num_classes,
        iou_threshold=model.test_nms_thresh,
        count=model.max_detections_per_image,
    )


def _find_candidates(
    model: AssigningDetector, level: int, features: Tensor, *predictions: Tensor
) -> Candidates:
    """Decode the best candidates of one level."""
    logits, boxes, *centerness = (in_float32(map_to_tokens(maps)) for maps in predictions)
    scores = logits.sigmoid().flatten(1)
    scores = scores.masked_fill(scores <= model.test_score_thresh, 0.0)
    scores, pairs = top_scores(scores, model.test_topk_candidates)
    rows, classes = pairs // model.num_classes, pairs % model.num_classes
    for factor in centerness:
        scores = scores * choose_rows(factor, rows)[..., 0].sigmoid()
    anchors = grid_anchors(model.anchor_generator, features, level)[rows]
    boxes = choose_rows(boxes, rows)
    decoded = model.decode(anchors.flatten(0, 1), boxes.flatten(0, 1), level)
    return Candidates(decoded.view_as(anchors), scores, classes)
