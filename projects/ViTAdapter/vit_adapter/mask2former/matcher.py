"""Matches queries and regions one-to-one at the least total cost (DETR, arXiv 2005.12872).

Shapes: B batch, Q queries, K classes, h/w grid of the predicted masks, T targets of one image,
H/W sides of the padded image, P sampled points, N predictions (layers).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import point_sample
from torch import Tensor, nn

from vit_adapter.layers.image_random import random_numbers_of
from vit_adapter.layers.matching import Matches, match_at_least_cost
from vit_adapter.mask2former.targets import MaskTargets
from vit_adapter.mask2former.transformer_decoder import MaskPredictions


class HungarianMatcher(nn.Module):
    """Pairs queries with targets by class, mask and dice costs at random points.

    Args:
        cost_class: weight of the negative probability of the target's class.
        cost_mask: weight of the binary cross entropy, averaged over the points.
        cost_dice: weight of the dice loss.
        num_points: points per image and prediction.

    Raises:
        ValueError: a weight is negative, all are zero, or there are no points.
    """

    def __init__(
        self,
        *,
        cost_class: float = 2.0,
        cost_mask: float = 5.0,
        cost_dice: float = 5.0,
        num_points: int = 12544,
    ) -> None:
        super().__init__()
        weights = (cost_class, cost_mask, cost_dice)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(f"costs must not be negative nor all zero, got {weights}")
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {num_points}")
        self.cost_class = cost_class
        self.cost_mask = cost_mask
        self.cost_dice = cost_dice
        self.num_points = num_points

    @torch.no_grad()
    def forward(
        self, predictions: Sequence[MaskPredictions], targets: Sequence[MaskTargets]
    ) -> Matches:
        """Match each prediction with the targets, which gives min(Q, T) pairs per image.

        Raises:
            FloatingPointError: a cost is infinite or not a number.
        """
        device_type = predictions[0].class_logits.device.type
        with torch.autocast(device_type, enabled=False):
            costs = [
                self._costs_of_image(predictions, image, target)
                for image, target in enumerate(targets)
            ]
        return match_at_least_cost(costs)

    def _costs_of_image(
        self, predictions: Sequence[MaskPredictions], image: int, target: MaskTargets
    ) -> list[Tensor]:
        """Costs (T, Q) of one image in each prediction."""
        logits = predictions[0].mask_logits
        wide = torch.promote_types(logits.dtype, torch.float32)
        size = (len(predictions), self.num_points, 2)
        with random_numbers_of(image, logits.device):
            points = torch.rand(size, device=logits.device, dtype=wide)
        # All masks of an image are read at the same points, as channels of one map.
        target_points = point_sample(
            target.masks[None].to(wide), points.flatten(0, 1)[None], align_corners=False
        )  # (1, T, N * P)
        target_points = target_points[0].split(self.num_points, dim=1)
        costs = []
        for (classes, masks), at, truth in zip(predictions, points, target_points, strict=True):
            mask_points = point_sample(masks[image, None].to(wide), at[None], align_corners=False)
            costs.append(
                self._pairwise_costs(classes[image].to(wide), mask_points[0], target.labels, truth)
            )
        return costs

    def _pairwise_costs(
        self, class_logits: Tensor, mask_logits: Tensor, labels: Tensor, truth: Tensor
    ) -> Tensor:
        """Costs (T, Q) from (Q, K + 1), (Q, P), (T,) and (T, P)."""
        cost_class = -class_logits.softmax(-1)[:, labels].T
        # -t log(p) - (1 - t) log(1 - p) is softplus(x) - t x, with p = sigmoid(x)
        entropy = F.softplus(mask_logits).sum(-1) - truth @ mask_logits.T
        probabilities = mask_logits.sigmoid()
        overlap = 2 * truth @ probabilities.T
        areas = truth.sum(-1)[:, None] + probabilities.sum(-1)
        cost_dice = 1 - (overlap + 1) / (areas + 1)
        return (
            self.cost_class * cost_class
            + self.cost_mask * entropy / mask_logits.shape[-1]
            + self.cost_dice * cost_dice
        )
