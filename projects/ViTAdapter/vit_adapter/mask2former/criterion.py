"""Losses of Mask2Former (arXiv 2112.01527, section 3.3), computed on sampled points.

Shapes: B batch, Q queries, K classes, h/w grid of the predicted masks, H/W sides of the padded
image, P sampled points, N predictions (layers), M matched pairs in a batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import (
    get_uncertain_point_coords_with_randomness,
    point_sample,
)
from torch import Tensor, nn

from vit_adapter.layers.image_random import has_image_seeds, random_numbers_of
from vit_adapter.layers.loss_count import loss_divisor
from vit_adapter.layers.matching import Matches
from vit_adapter.mask2former.matcher import HungarianMatcher
from vit_adapter.mask2former.targets import MaskTargets
from vit_adapter.mask2former.transformer_decoder import MaskPredictions


class SetCriterion(nn.Module):
    """Class, mask and dice losses of the matched queries, for each prediction of the decoder.

    The class loss is the cross entropy over all queries, where unmatched ones are "no object",
    divided by the sum of the class weights. The mask and dice losses are those of matched queries
    only, divided by the number of pairs (its mean over processes). They are computed at points that
    are mostly drawn where the prediction is uncertain.

    Args:
        num_classes: classes K, without "no object".
        matcher: pairs queries and targets.
        class_weight: weight of the class loss.
        mask_weight: weight of the binary cross entropy of the masks.
        dice_weight: weight of the dice loss.
        no_object_weight: weight of "no object" in the class loss; the other classes have weight 1.
        num_points: points P per pair; 12544 = 112 * 112.
        oversample_ratio: number of candidates for the uncertain points, relative to P.
        importance_sample_ratio: share of uncertain points; the others are drawn uniformly.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        if num_classes < 1 or num_points < 1:
            raise ValueError(
                f"num_classes and num_points must be at least 1, got {num_classes}, {num_points}"
            )
        if oversample_ratio < 1 or not 0 <= importance_sample_ratio <= 1:
            raise ValueError(
                "oversample_ratio must be at least 1 and importance_sample_ratio in [0, 1], got "
                f"{oversample_ratio} and {importance_sample_ratio}"
            )
        if min(class_weight, mask_weight, dice_weight, no_object_weight) < 0:
            raise ValueError(
                "weights must not be negative, got "
                f"{class_weight}, {mask_weight}, {dice_weight}, {no_object_weight}"
            )
        self.num_classes = num_classes
        self.matcher = matcher
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        weights = torch.ones(num_classes + 1)
        weights[-1] = no_object_weight
        self.register_buffer("weight_of_class", weights, persistent=False)

    def forward(
        self, predictions: Sequence[MaskPredictions], targets: Sequence[MaskTargets]
    ) -> dict[str, Tensor]:
        """Compute the weighted losses, in float32 or wider, also under autocast.

        Args:
            predictions: the N predictions, the final one last; class logits (B, Q, K + 1), mask
                logits (B, Q, h, w).
            targets: targets of each of the B images, with masks of the padded size.

        Returns:
            "loss_cls", "loss_mask" and "loss_dice" of the final prediction, and the same names with
            "_0", "_1", ... for the others.

        Raises:
            ValueError: the number of images or classes does not fit.
            FloatingPointError: a prediction is infinite or not a number.
        """
        batch, queries, num_logits = predictions[0].class_logits.shape
        if (batch, num_logits) != (len(targets), self.num_classes + 1):
            raise ValueError(
                f"class logits must be (B, Q, K + 1) with B = {len(targets)} and K + 1 = "
                f"{self.num_classes + 1}, got {tuple(predictions[0].class_logits.shape)}"
            )
        device = predictions[0].class_logits.device
        with torch.autocast(device.type, enabled=False):
            matches = self.matcher(predictions, targets)
            pairs_of_images = [min(queries, len(target.labels)) for target in targets]
            num_pairs = torch.full((), float(sum(pairs_of_images)), device=device)
            num_pairs = loss_divisor(num_pairs, over_processes=True)
            labels = torch.cat([target.labels for target in targets])
            classes = self._class_losses(predictions, labels, matches)
            masks = torch.cat([target.masks for target in targets]).to(classes.dtype)
            losses = {}
            for i, prediction in enumerate(predictions):
                suffix = "" if i == len(predictions) - 1 else f"_{i}"
                mask, dice = self._mask_losses(
                    prediction.mask_logits, masks, matches, i, pairs_of_images
                )
                losses[f"loss_cls{suffix}"] = self.class_weight * classes[i]
                losses[f"loss_mask{suffix}"] = self.mask_weight * mask / num_pairs
                losses[f"loss_dice{suffix}"] = self.dice_weight * dice / num_pairs
        return losses

    def _class_losses(
        self, predictions: Sequence[MaskPredictions], labels: Tensor, matches: Matches
    ) -> Tensor:
        """Cross entropies (N,), given the labels of all targets of the batch."""
        class_logits = torch.stack([p.class_logits.flatten(0, 1) for p in predictions])
        wide = torch.promote_types(class_logits.dtype, torch.float32)
        class_logits = class_logits.to(wide)  # (N, B*Q, K + 1)
        expected = labels.new_full(class_logits.shape[:2], self.num_classes)
        expected.scatter_(1, matches.queries, labels[matches.targets])
        weights = self.weight_of_class.to(wide)
        losses = F.cross_entropy(
            class_logits.flatten(0, 1), expected.flatten(), weight=weights, reduction="none"
        )
        return losses.view_as(expected).sum(1) / loss_divisor(weights[expected].sum(1), minimum=0)

    def _mask_losses(
        self,
        mask_logits: Tensor,
        masks: Tensor,
        matches: Matches,
        index: int,
        pairs_of_images: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy and dice loss of prediction ``index``, each summed over the pairs.

        Args:
            mask_logits: (B, Q, h, w).
            masks: (number of targets in the batch, H, W), 0 or 1.
            matches: the pairs of all predictions.
            index: number of the prediction.
            pairs_of_images: number of pairs of each image, M in all.
        """
        logits = mask_logits.flatten(0, 1)[matches.queries[index], None].to(masks.dtype)
        masks = masks[matches.targets[index], None]  # (M, 1, H, W)
        with torch.no_grad():
            points = self._draw_points(logits, pairs_of_images)  # (M, P, 2)
            truth = point_sample(masks, points, align_corners=False)[:, 0]
        logits = point_sample(logits, points, align_corners=False)[:, 0]  # (M, P)
        entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
        probabilities = logits.sigmoid()
        overlap = 2 * (probabilities * truth).sum(1)
        dice = 1 - (overlap + 1) / (probabilities.sum(1) + truth.sum(1) + 1)
        return entropy.sum(), dice.sum()

    def _draw_points(self, logits: Tensor, pairs_of_images: Sequence[int]) -> Tensor:
        """Draw points (M, P, 2) for mask logits (M, 1, h, w), image by image if they have seeds."""
        parts = logits.split(pairs_of_images) if has_image_seeds() else [logits]
        points = []
        for image, part in enumerate(parts):
            with random_numbers_of(image, part.device):
                points.append(
                    get_uncertain_point_coords_with_randomness(
                        part,
                        _uncertainty,
                        self.num_points,
                        self.oversample_ratio,
                        self.importance_sample_ratio,
                    )
                )
        return torch.cat(points)


def _uncertainty(logits: Tensor) -> Tensor:
    """Uncertainty of logits, highest at the border between inside and outside."""
    return -logits.abs()
