"""Pooling of the features of regions, with results of a fixed size.

Shapes: B batch, R regions of an image, C channels, S side of the pooled features.
"""

from collections.abc import Sequence

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor

__all__ = ["pool_regions"]


def pool_regions(pooler: ROIPooler, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Pool as Detectron2's pooler does, without choosing the boxes of a level by a mask.

    Every level pools all boxes, but those of other levels are empty there. For an empty box,
    ``roi_align`` reads no samples, so that this costs little time.

    Args:
        pooler: of type ``ROIAlign`` or ``ROIAlignV2``.
        maps: (B, C, h, w) for each level of the pooler.
        boxes: (B, R, 4), in pixels.

    Returns:
        (B * R, C, S, S).
    """
    image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    image = image[:, None].expand(-1, boxes.shape[1]).flatten()[:, None]
    boxes = boxes.flatten(0, 1)
    if len(maps) == 1:
        return pooler.level_poolers[0](maps[0], torch.cat((image, boxes), dim=1))
    levels = assign_boxes_to_levels(
        [Boxes(boxes)],
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )
    pooled: Tensor | float = 0.0
    for level, (pool, features) in enumerate(zip(pooler.level_poolers, maps, strict=True)):
        here = levels == level
        regions = torch.cat((image, boxes * here[:, None]), dim=1)
        pooled = torch.where(here[:, None, None, None], pool(features, regions), pooled)
    return pooled
