"""GFL (arXiv 2006.04388): classes learn the quality of their boxes, sides are distributions.

Shapes: B batch, A anchors of all levels, K classes, P positive anchors of the batch, R largest
distance in strides.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vit_adapter.detection.boxes import box_centers, box_distances, overlap
from vit_adapter.detection.dense.detector import AnchorTargets, AssigningDetector
from vit_adapter.detection.dense.head import DenseHead
from vit_adapter.detection.dense.losses import (
    distribution_focal_loss,
    quality_focal_loss,
)
from vit_adapter.detection.losses import giou_loss
from vit_adapter.layers.loss_count import loss_divisor

__all__ = ["GFL", "GFLHead", "Integral", "distances_to_boxes"]

_MARGIN = 0.1  # targets end this far below R, so that there is a whole number above each


class Integral(nn.Module):
    """Expected distances of distributions over 0 to R.

    Args:
        reg_max: R.

    Attributes:
        project: (R + 1,), the distances.
    """

    def __init__(self, reg_max: int) -> None:
        super().__init__()
        self.register_buffer("project", torch.arange(reg_max + 1, dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits (..., 4 * (R + 1)) to distances (..., 4), in strides."""
        probabilities = logits.unflatten(-1, (4, len(self.project))).softmax(-1)
        return probabilities @ self.project.to(logits.dtype)


class GFLHead(DenseHead):
    """Predicts class logits, and for each side of the box the logits of its distances.

    Args:
        reg_max: R.
        arguments: the arguments of :class:`DenseHead`, except ``box_channels``.
    """

    def __init__(self, *, reg_max: int = 16, **arguments: Any) -> None:
        super().__init__(box_channels=4 * (reg_max + 1), **arguments)
        self.reg_max = reg_max
        self.integral = Integral(reg_max)


class GFL(AssigningDetector):
    """GFL with Detectron2's conventions.

    Args:
        quality_beta: exponent of the quality focal loss.
        box_weight: weight of the GIoU loss.
        distribution_weight: weight of the distribution focal loss.
        arguments: see :class:`AssigningDetector`; the head is a :class:`GFLHead`.
    """

    def __init__(
        self,
        *,
        quality_beta: float = 2.0,
        box_weight: float = 2.0,
        distribution_weight: float = 0.25,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.quality_beta = quality_beta
        self.box_weight = box_weight
        self.distribution_weight = distribution_weight

    def decode(self, anchors: Tensor, predictions: Tensor, level: int) -> Tensor:
        """Make boxes from the logits (..., 4 * (R + 1)) of distances in the level's stride."""
        stride = self.anchor_generator.strides[level]
        return distances_to_boxes(box_centers(anchors), self.head.integral(predictions) * stride)

    def losses(
        self, anchors: Sequence[Tensor], predictions: Sequence[Tensor], targets: AnchorTargets
    ) -> dict[str, Tensor]:
        """Compute "loss_cls", "loss_box_reg" and "loss_dfl".

        Boxes are compared in units of the stride. The class loss is divided by the number of
        positives, where an image without any counts as 1. The other losses of a positive are
        weighted by its largest class probability, and divided by the sum of these weights. Both
        divisors are means over the processes, and at least 1.
        """
        logits, distributions = predictions
        labels, gt_boxes = targets
        positive = (labels >= 0) & (labels < self.num_classes)
        strides = self._strides(anchors).expand_as(gt_boxes)[positive]
        boxes = gt_boxes[positive] / strides
        centers = box_centers(torch.cat(list(anchors))).expand(*labels.shape, 2)[positive]
        centers = centers / strides[:, :2]
        sides = distributions[positive]
        decoded = distances_to_boxes(centers, self.head.integral(sides))
        quality = logits.new_zeros(labels.shape)
        quality[positive] = overlap(decoded.detach(), boxes)[0]
        weights = logits[positive].detach().sigmoid().amax(-1)
        count = positive.sum(1).clamp(min=1).sum()
        counts = torch.stack((count.to(weights.dtype), weights.sum()))
        count, total = loss_divisor(counts, over_processes=True)
        used = labels >= 0
        loss_cls = quality_focal_loss(
            logits[used], labels[used], quality[used], beta=self.quality_beta
        )
        loss_box = giou_loss(decoded, boxes) * weights
        loss_dfl = self._distribution_loss(sides, centers, boxes) * weights
        return {
            "loss_cls": loss_cls.sum() / count,
            "loss_box_reg": self.box_weight * loss_box.sum() / total,
            "loss_dfl": self.distribution_weight * loss_dfl.sum() / total,
        }

    def _strides(self, anchors: Sequence[Tensor]) -> Tensor:
        """The stride (A, 1) of each anchor's level."""
        strides = zip(anchors, self.anchor_generator.strides, strict=True)
        return torch.cat([level.new_full((len(level), 1), stride) for level, stride in strides])

    def _distribution_loss(self, sides: Tensor, centers: Tensor, boxes: Tensor) -> Tensor:
        """Mean (P,) over the four sides, given centres (P, 2) and boxes (P, 4) in strides."""
        reg_max = self.head.reg_max
        distances = box_distances(centers, boxes).clamp(0, reg_max - _MARGIN)
        logits = sides.reshape(-1, reg_max + 1)
        return distribution_focal_loss(logits, distances.flatten()).view(-1, 4).mean(-1)


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., 4) whose left, top, right and bottom are at distances (..., 4) from points."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)
