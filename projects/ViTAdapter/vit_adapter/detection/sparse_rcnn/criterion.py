"""The training losses of Sparse R-CNN.

Shapes: B batch, P proposals of an image, K classes, M matched pairs of the batch, N stages.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from vit_adapter.detection.losses import giou_loss
from vit_adapter.detection.sparse_rcnn.matcher import (
    ProposalMatcher,
    StagePredictions,
    image_scale,
)
from vit_adapter.layers.loss_count import loss_divisor

__all__ = ["ProposalCriterion"]


class ProposalCriterion:
    """Focal, L1 and GIoU losses of matched proposals, in every stage.

    Args:
        matcher: decides which proposal learns which object.
        class_weight: weight of the focal loss, of all proposals and classes.
        l1_weight: weight of the L1 loss of the matched boxes (x1, y1, x2, y2), as shares of the
            image.
        giou_weight: weight of their GIoU loss.
        focal_loss_alpha: weight of positives in the focal loss; negatives have one minus this.
        focal_loss_gamma: exponent of the focal loss.
    """

    def __init__(
        self,
        *,
        matcher: ProposalMatcher,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
    ) -> None:
        self.matcher = matcher
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma

    def __call__(
        self, predictions: Sequence[StagePredictions], targets: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Compute the weighted losses.

        Each is a sum, divided by the number of matched pairs: its mean over the processes, and at
        least 1. Proposals without an object learn to be background.

        Args:
            predictions: of the N stages.
            targets: of each image, with ``gt_boxes`` and ``gt_classes``.

        Returns:
            ``loss_cls_stage0``, ``loss_l1_stage0``, ``loss_giou_stage0``, and so on.
        """
        matches = self.matcher(predictions, targets)
        boxes = predictions[0].boxes
        truth = torch.cat([target.gt_boxes.tensor for target in targets]).to(boxes.dtype)
        classes = torch.cat([target.gt_classes for target in targets])
        scales = torch.cat(
            [image_scale(target, boxes).expand(len(target), 4) for target in targets]
        )
        count = boxes.new_full((), matches.queries.shape[1])
        count = loss_divisor(count, over_processes=True)
        losses = {}
        pairs = zip(predictions, matches.queries, matches.targets, strict=True)
        for stage, (predicted, queries, chosen) in enumerate(pairs):
            one_hot = torch.zeros_like(predicted.logits).flatten(0, 1)
            one_hot[queries, classes[chosen]] = 1
            loss_cls = sigmoid_focal_loss(
                predicted.logits.flatten(0, 1),
                one_hot,
                alpha=self.focal_loss_alpha,
                gamma=self.focal_loss_gamma,
                reduction="sum",
            )
            matched = predicted.boxes.flatten(0, 1)[queries]
            own, scale = truth[chosen], scales[chosen]
            loss_l1 = F.l1_loss(matched / scale, own / scale, reduction="sum")
            loss_giou = giou_loss(matched, own).sum()
            losses[f"loss_cls_stage{stage}"] = self.class_weight * loss_cls / count
            losses[f"loss_l1_stage{stage}"] = self.l1_weight * loss_l1 / count
            losses[f"loss_giou_stage{stage}"] = self.giou_weight * loss_giou / count
        return losses
