"""ATSS (arXiv 1912.02424): focal loss, GIoU of decoded boxes, centerness.

Shapes: B batch, A anchors of all levels, K classes, P positive anchors of the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from vit_adapter.detection.boxes import box_centers, box_distances
from vit_adapter.detection.dense.detector import AnchorTargets, AssigningDetector
from vit_adapter.detection.dense.head import DenseHead, conv3x3
from vit_adapter.detection.losses import giou_loss
from vit_adapter.layers.loss_count import loss_divisor

__all__ = ["ATSS", "ATSSHead", "centerness_targets"]


class ATSSHead(DenseHead):
    """Predicts class logits, box deltas and, from the tower for boxes, centerness logits.

    Args:
        conv_dims: see :class:`DenseHead`.
        arguments: the other arguments of :class:`DenseHead`, except ``box_channels``.
    """

    def __init__(
        self, *, conv_dims: Sequence[int] = (256, 256, 256, 256), **arguments: Any
    ) -> None:
        super().__init__(conv_dims=conv_dims, box_channels=4, **arguments)
        self.ctrness = conv3x3(conv_dims[-1], 1)

    def predict_more(self, for_boxes: Tensor) -> list[Tensor]:
        """The centerness logits (B, 1, H, W) of one level."""
        return [self.ctrness(for_boxes)]


class ATSS(AssigningDetector):
    """ATSS with Detectron2's conventions.

    Args:
        box2box_transform: codes boxes relative to anchors.
        focal_loss_alpha: weight of positives in the focal loss; negatives have one minus this.
        focal_loss_gamma: exponent of the focal loss.
        box_weight: weight of the box loss.
        arguments: see :class:`AssigningDetector`; the head is an :class:`ATSSHead`.
    """

    def __init__(
        self,
        *,
        box2box_transform: Box2BoxTransform,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        box_weight: float = 2.0,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.box2box_transform = box2box_transform
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.box_weight = box_weight

    def decode(self, anchors: Tensor, predictions: Tensor, level: int) -> Tensor:
        """Apply the deltas (..., 4); the level does not matter."""
        return self.box2box_transform.apply_deltas(predictions, anchors)

    def losses(
        self, anchors: Sequence[Tensor], predictions: Sequence[Tensor], targets: AnchorTargets
    ) -> dict[str, Tensor]:
        """Compute "loss_cls", "loss_box_reg" and "loss_ctr".

        Class and centerness losses are divided by the number of positives, where an image without
        any counts as 1. The box losses of positives are weighted by their centerness targets, and
        divided by their sum. Both divisors are means over the processes, and at least 1.
        """
        logits, deltas, centerness = predictions
        labels, gt_boxes = targets
        positive = (labels >= 0) & (labels < self.num_classes)
        boxes = gt_boxes[positive]
        anchor = torch.cat(list(anchors)).expand_as(gt_boxes)[positive]
        weights = centerness_targets(anchor, boxes)
        count = positive.sum(1).clamp(min=1).sum()
        counts = torch.stack((count.to(weights.dtype), weights.sum()))
        count, total = loss_divisor(counts, over_processes=True)
        used = labels >= 0
        one_hot = F.one_hot(labels[used], self.num_classes + 1)[:, :-1].to(logits.dtype)
        loss_cls = sigmoid_focal_loss(
            logits[used],
            one_hot,
            alpha=self.focal_loss_alpha,
            gamma=self.focal_loss_gamma,
            reduction="sum",
        )
        loss_box = giou_loss(self.box2box_transform.apply_deltas(deltas[positive], anchor), boxes)
        loss_ctr = F.binary_cross_entropy_with_logits(
            centerness[positive][:, 0], weights, reduction="sum"
        )
        return {
            "loss_cls": loss_cls / count,
            "loss_box_reg": self.box_weight * (loss_box * weights).sum() / total,
            "loss_ctr": loss_ctr / count,
        }


def centerness_targets(anchors: Tensor, boxes: Tensor) -> Tensor:
    """How central each anchor's centre is in its box: 1 in the middle, near 0 at a side.

    Args:
        anchors: (P, 4), whose centres lie inside the boxes.
        boxes: (P, 4).

    Returns:
        (P,).
    """
    sides = box_distances(box_centers(anchors), boxes).unflatten(-1, (2, 2))
    return (sides.amin(-2) / sides.amax(-2)).prod(-1).sqrt()
