"""Detections of Sparse R-CNN, which has no NMS, as tensors.

Shapes: B batch, H/W sides of the image.
"""

from collections.abc import Mapping

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor

from vit_adapter.export.detectors.detections import Results
from vit_adapter.export.detectors.pooling import pool_regions
from vit_adapter.export.detectors.suppression import choose_rows

__all__ = ["detect_sparsely"]


def detect_sparsely(
    model: GeneralizedRCNN, features: Mapping[str, Tensor], image_size: tuple[int, int]
) -> Results:
    """Find the detections that the model finds in evaluation mode.

    Args:
        model: has ``LearnedProposals`` and ``SparseHeads``.
        features: maps of its pyramid.
        image_size: (H, W), before padding.
    """
    heads, proposals = model.roi_heads, model.proposal_generator
    maps = [features[name] for name in heads.in_features]
    batch = maps[0].shape[0]
    boxes = proposals.scale_boxes(image_size).expand(batch, -1, -1)
    objects = proposals.features.weight.expand(batch, -1, -1)
    for stage in heads.stages:
        logits, deltas, objects = stage(pool_regions(heads.box_pooler, maps, boxes), objects)
        decoded = heads.box2box_transform.apply_deltas(deltas.flatten(0, 1), boxes.flatten(0, 1))
        boxes = decoded.view_as(boxes)
    scores = logits.sigmoid().flatten(1)
    scores, pairs = scores.topk(min(heads.test_topk_per_image, scores.shape[1]), dim=1)
    rows, classes = pairs // heads.num_classes, pairs % heads.num_classes
    return Results(choose_rows(boxes, rows), scores, classes, torch.ones_like(pairs).bool())
