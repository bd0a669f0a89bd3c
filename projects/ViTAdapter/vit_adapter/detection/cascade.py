"""Cascade Mask R-CNN as the original trains it.

Shapes: R regions of a batch, K classes.
"""

from collections.abc import Sequence

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import BaseMaskRCNNHead, FastRCNNOutputLayers
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from vit_adapter.detection.assigner import MaxIoUAssigner
from vit_adapter.detection.box_predictor import choose_deltas
from vit_adapter.detection.boxes import in_float32
from vit_adapter.detection.sampling import log_samples, sample_regions, select_foreground
from vit_adapter.layers.loss_count import rescale_means

__all__ = ["CascadeMaskHeads"]

Features = dict[str, Tensor]
Predictions = tuple[Tensor, Tensor]
"""Logits (R, K + 1) with the background last, and deltas (R, K * 4) or (R, 4)."""


class CascadeMaskHeads(nn.Module):
    """Stages that refine boxes one after another, each with a box head and a mask head.

    Detectron2's ``CascadeROIHeads`` has boxes for all classes in common, keeps the regions of the
    first stage, scales gradients instead of losses, averages probabilities, and has one mask head.
    Here each stage samples its regions anew, ground truth included, and the weight of a stage
    multiplies its losses. Detections get the mean of the stages' logits, and the mean of their
    masks.

    Args:
        num_classes: K.
        batch_size_per_image: number of regions sampled from an image, in each stage.
        positive_fraction: largest share of foreground among them.
        stage_weights: what the losses of each stage are multiplied by.
        assigners: how each stage assigns regions to ground truth.
        box_in_features: names of the maps that boxes are pooled from.
        box_pooler: pools the features of boxes.
        box_heads: one per stage.
        box_predictors: one per stage; the last one has the thresholds of the test.
        mask_in_features: names of the maps for masks; None without masks.
        mask_pooler: pools the features of masks; None without masks.
        mask_heads: one per stage; None without masks.

    Attributes:
        mask_on: whether detections get masks, as in Detectron2's heads.

    Raises:
        ValueError: the numbers of stages differ.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        stage_weights: Sequence[float],
        assigners: Sequence[MaxIoUAssigner],
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[FastRCNNOutputLayers],
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_heads: Sequence[BaseMaskRCNNHead] | None = None,
    ) -> None:
        super().__init__()
        parts = [stage_weights, assigners, box_heads, box_predictors]
        lengths = [len(part) for part in (*parts, *([mask_heads] if mask_heads else []))]
        if len(set(lengths)) != 1:
            raise ValueError(
                "expected as many stage_weights, assigners, box_heads, box_predictors and "
                f"mask_heads as there are stages, got {lengths}"
            )
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.stage_weights = list(stage_weights)
        self.assigners = list(assigners)
        self.box_in_features = list(box_in_features)
        self.box_pooler = box_pooler
        self.box_head = nn.ModuleList(box_heads)
        self.box_predictor = nn.ModuleList(box_predictors)
        self.mask_in_features = list(mask_in_features or [])
        self.mask_pooler = mask_pooler
        self.mask_head = nn.ModuleList(mask_heads) if mask_heads else None
        self.mask_on = self.mask_head is not None

    def forward(
        self,
        images: ImageList,
        features: Features,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Compute the losses of all stages in training, the detections at test time.

        Args:
            images: not used.
            features: maps of a pyramid.
            proposals: of each image, with ``proposal_boxes``.
            targets: in training, ground truths with ``gt_boxes``, ``gt_classes`` and, if the model
                has masks, ``gt_masks``.

        Returns:
            The proposals and losses such as ``loss_cls_stage0``; at test time, the detections and
            no losses.
        """
        if self.training:
            return proposals, self._losses(features, proposals, targets)
        detections = self._detect(features, proposals)
        return self.forward_with_given_boxes(features, detections), {}

    def forward_with_given_boxes(
        self, features: Features, instances: list[Instances]
    ) -> list[Instances]:
        """Add ``pred_masks`` (n, 1, height, width) to boxes that are known, if there are masks."""
        if not self.mask_on:
            return instances
        pooled = self._pool_masks(features, [image.pred_boxes for image in instances])
        classes = torch.cat([image.pred_classes for image in instances])
        rows = torch.arange(len(classes), device=classes.device)
        inputs = self.mask_inputs(pooled, len(self.mask_head))
        stages = zip(self.mask_head, inputs, strict=True)
        masks = [in_float32(head.layers(each)[rows, classes]).sigmoid() for head, each in stages]
        mean = torch.stack(masks).mean(dim=0)[:, None]
        for image, part in zip(instances, mean.split([len(i) for i in instances]), strict=True):
            image.pred_masks = part
        return instances

    def _losses(
        self, features: Features, proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        losses = {}
        for stage, weight in enumerate(self.stage_weights):
            regions = self._sample(stage, proposals, targets)
            predictions = self._predict(stage, features, regions)
            with get_event_storage().name_scope(f"stage{stage}"):
                log_samples(regions, num_classes=self.num_classes)
                of_stage = self._box_losses(stage, predictions, regions)
                if self.mask_on:
                    of_stage |= self._mask_losses(stage, features, regions, targets)
            losses |= {f"{name}_stage{stage}": weight * loss for name, loss in of_stage.items()}
            if stage + 1 < len(self.stage_weights):
                proposals = self._refine(stage, predictions, regions)
        return losses

    def _sample(
        self, stage: int, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """The regions of each image that a stage is trained on."""
        return sample_regions(
            proposals,
            targets,
            assigner=self.assigners[stage],
            num_classes=self.num_classes,
            batch_size=self.batch_size_per_image,
            positive_fraction=self.positive_fraction,
        )

    def _predict(self, stage: int, features: Features, regions: list[Instances]) -> Predictions:
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [image.proposal_boxes for image in regions])
        return self.box_predictor[stage](self.box_head[stage](pooled))

    @torch.no_grad()
    def _refine(
        self, stage: int, predictions: Predictions, regions: list[Instances]
    ) -> list[Instances]:
        """The boxes that a stage predicts, clipped to the image: the proposals of the next stage.

        The box is that of the most probable class; in training, the foreground has that of its
        true class, and ground truths are left out.
        """
        scores, deltas = predictions
        classes = scores[:, :-1].argmax(dim=1)
        if self.training:
            labels = torch.cat([image.gt_classes for image in regions])
            classes = torch.where(labels < self.num_classes, labels, classes)
        boxes = torch.cat([image.proposal_boxes.tensor for image in regions])
        transform = self.box_predictor[stage].box2box_transform
        refined = transform.apply_deltas(choose_deltas(deltas, classes), boxes)
        proposals = []
        for part, image in zip(refined.split([len(r) for r in regions]), regions, strict=True):
            clipped = Boxes(part)
            clipped.clip(image.image_size)
            kept = clipped[~image.is_gt] if self.training else clipped
            proposals.append(Instances(image.image_size, proposal_boxes=kept))
        return proposals

    def _detect(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        predictions = self._predict(0, features, proposals)
        logits = [predictions[0]]
        for stage in range(1, len(self.box_head)):
            proposals = self._refine(stage - 1, predictions, proposals)
            predictions = self._predict(stage, features, proposals)
            logits.append(predictions[0])
        mean = torch.stack([in_float32(of_stage) for of_stage in logits]).mean(dim=0)
        detections, _ = self.box_predictor[-1].inference((mean, predictions[1]), proposals)
        return detections

    def _box_losses(
        self, stage: int, predictions: Predictions, regions: list[Instances]
    ) -> dict[str, Tensor]:
        losses = self.box_predictor[stage].losses(predictions, regions)
        return rescale_means(losses, sum(map(len, regions)))

    def _pool_masks(self, features: Features, boxes: list[Boxes]) -> Tensor:
        return self.mask_pooler([features[name] for name in self.mask_in_features], boxes)

    def _mask_losses(
        self,
        stage: int,
        features: Features,
        regions: list[Instances],
        targets: list[Instances],
    ) -> dict[str, Tensor]:
        foreground = [
            select_foreground(image, truths, num_classes=self.num_classes)
            for image, truths in zip(regions, targets, strict=True)
        ]
        pooled = self._pool_masks(features, [image.proposal_boxes for image in foreground])
        losses = self.mask_head[stage](self.mask_inputs(pooled, stage + 1)[-1], foreground)
        return rescale_means(losses, sum(map(len, foreground)))

    def mask_inputs(self, pooled: Tensor, stages: int) -> list[Tensor]:
        """What the mask heads of the first stages read, given the pooled features."""
        return [pooled] * stages
