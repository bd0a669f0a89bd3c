"""The hybrid task cascade as a model."""

from typing import Any

from detectron2.structures import ImageList

from vit_adapter.detection.two_stage import TwoStageDetector


class HybridTaskCascade(TwoStageDetector):
    """Detectron2's two-stage detector, whose heads also learn from semantic labels.

    Arguments are those of ``GeneralizedRCNN``; ``roi_heads`` is a ``HybridTaskCascadeHeads``. If it
    has no semantic branch, no labels are needed.
    """

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute losses in training and detections otherwise.

        Args:
            batched_inputs: as for ``GeneralizedRCNN``; to train the semantic branch also
                ``sem_seg`` (height, width) int64 of each image.

        Returns:
            The losses by name, or the detections of each image.

        Raises:
            ValueError: an image has no semantic labels, and the semantic branch is trained.
        """
        if not self.training or self.roi_heads.semantic_head is None:
            return super().forward(batched_inputs)
        for record in batched_inputs:
            if "sem_seg" not in record:
                raise ValueError(
                    f"{record.get('file_name', 'an image')} has no 'sem_seg': the semantic branch "
                    "of the hybrid task cascade learns from label maps. Use "
                    "InstanceSemanticMapper, or train without the branch: "
                    "model.roi_heads.semantic_head=null."
                )
        images = self.preprocess_image(batched_inputs)
        targets = [record["instances"].to(self.device) for record in batched_inputs]
        labels = ImageList.from_tensors(
            [record["sem_seg"].to(self.device) for record in batched_inputs],
            self.backbone.size_divisibility,
            self.roi_heads.semantic_head.ignore_value,
        ).tensor
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, targets)
        _, of_heads = self.roi_heads(images, features, proposals, targets, labels)
        return {**of_heads, **losses}
