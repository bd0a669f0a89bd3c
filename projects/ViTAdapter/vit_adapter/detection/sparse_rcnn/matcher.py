"""Which proposal learns which object.

Shapes: B batch, P proposals of an image, K classes, G ground truths of one image, N stages.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from vit_adapter.detection.boxes import generalized_overlap
from vit_adapter.layers.matching import Matches, match_at_least_cost

__all__ = ["ProposalMatcher", "StagePredictions", "image_scale"]


class StagePredictions(NamedTuple):
    """What a stage predicts, in float32 or wider.

    Attributes:
        logits: (B, P, K), class logits.
        boxes: (B, P, 4), in pixels.
    """

    logits: Tensor
    boxes: Tensor


class ProposalMatcher:
    """Matches proposals and objects one-to-one, at the least total cost.

    Args:
        cost_class: weight of the focal loss of the object's class, less that of no object.
        cost_l1: weight of the L1 distance of (x1, y1, x2, y2), as shares of the image.
        cost_giou: weight of the negative generalized IoU.
        focal_loss_alpha: weight of positives in the focal loss; negatives have one minus this.
        focal_loss_gamma: exponent of the focal loss.
    """

    def __init__(
        self,
        *,
        cost_class: float = 2.0,
        cost_l1: float = 5.0,
        cost_giou: float = 2.0,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
    ) -> None:
        self.cost_class = cost_class
        self.cost_l1 = cost_l1
        self.cost_giou = cost_giou
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma

    @torch.no_grad()
    def __call__(
        self, predictions: Sequence[StagePredictions], targets: Sequence[Instances]
    ) -> Matches:
        """Match each stage's predictions, which gives min(P, G) pairs per image.

        Args:
            predictions: of the N stages.
            targets: of each image, with ``gt_boxes`` and ``gt_classes``.

        Raises:
            FloatingPointError: a cost is infinite or not a number.
        """
        return match_at_least_cost(
            [
                [self.costs(logits[i], boxes[i], target) for logits, boxes in predictions]
                for i, target in enumerate(targets)
            ]
        )

    def costs(self, logits: Tensor, boxes: Tensor, target: Instances) -> Tensor:
        """Costs (G, P) in one image, from logits (P, K) and boxes (P, 4)."""
        truth = target.gt_boxes.tensor.to(boxes.dtype)
        absent, present = (
            sigmoid_focal_loss(
                logits,
                torch.full_like(logits, label),
                alpha=self.focal_loss_alpha,
                gamma=self.focal_loss_gamma,
            )
            for label in (0.0, 1.0)
        )
        cost_class = (present - absent)[:, target.gt_classes].T
        scale = image_scale(target, boxes)
        cost_l1 = torch.cdist(truth / scale, boxes / scale, p=1)
        giou = generalized_overlap(truth[:, None], boxes)
        return self.cost_class * cost_class + self.cost_l1 * cost_l1 - self.cost_giou * giou


def image_scale(target: Instances, boxes: Tensor) -> Tensor:
    """Sides (width, height, width, height) of an image before padding, like ``boxes``."""
    height, width = target.image_size
    return boxes.new_tensor([width, height, width, height])
