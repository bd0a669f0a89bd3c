"""The heads of Mask R-CNN as the original trains them."""

from typing import Any

from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor

from vit_adapter.detection.boxes import in_float32
from vit_adapter.detection.sampling import log_samples, sample_regions, select_foreground
from vit_adapter.layers.loss_count import rescale_means

__all__ = ["AssigningROIHeads"]


class AssigningROIHeads(StandardROIHeads):
    """Detectron2's box and mask heads, trained on the regions that the original samples.

    Proposals are assigned before the ground truths are added to them. Detectron2 adds them first,
    so that each ground truth is the box that overlaps itself most, and low-quality matching has no
    effect. Arguments are those of ``StandardROIHeads``; ``proposal_matcher`` is a
    :class:`MaxIoUAssigner`. Keypoints are not supported.

    Raises:
        ValueError: there are arguments for keypoints.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.keypoint_on:
            raise ValueError(
                "AssigningROIHeads does not train keypoints, but has keypoint_in_features; leave "
                "the arguments for keypoints out, or use Detectron2's StandardROIHeads"
            )

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Compute the losses in training, the detections at test time.

        Args:
            images: not used.
            features: maps of a pyramid.
            proposals: of each image, with ``proposal_boxes``.
            targets: in training, ground truths with ``gt_boxes``, ``gt_classes`` and, if the model
                has masks, ``gt_masks``.

        Returns:
            The sampled regions and the losses; at test time, the detections and no losses.
        """
        if not self.training:
            return super().forward(images, features, proposals)
        regions = self.label_and_sample_proposals(proposals, targets)
        losses = rescale_means(self._forward_box(features, regions), sum(map(len, regions)))
        if self.mask_on:
            foreground = [
                select_foreground(image, truths, num_classes=self.num_classes)
                for image, truths in zip(regions, targets, strict=True)
            ]
            of_masks = self._forward_mask(features, foreground)
            losses |= rescale_means(of_masks, sum(map(len, foreground)))
        return regions, losses

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """The regions of each image that the heads are trained on; see :func:`sample_regions`."""
        regions = sample_regions(
            proposals,
            targets,
            assigner=self.proposal_matcher,
            num_classes=self.num_classes,
            batch_size=self.batch_size_per_image,
            positive_fraction=self.positive_fraction,
        )
        log_samples(regions, num_classes=self.num_classes)
        return regions

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]) -> Any:
        """See Detectron2; at test time scores and boxes are computed in float32 or wider."""
        if self.training:
            return super()._forward_box(features, proposals)
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [image.proposal_boxes for image in proposals])
        logits, deltas = self.box_predictor(self.box_head(pooled))
        return self.box_predictor.inference((in_float32(logits), deltas), proposals)[0]

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        """See Detectron2; at test time the masks are in float32 or wider."""
        result = super()._forward_mask(features, instances)
        if self.mask_on and not self.training:
            for image in result:
                image.pred_masks = in_float32(image.pred_masks)
        return result
