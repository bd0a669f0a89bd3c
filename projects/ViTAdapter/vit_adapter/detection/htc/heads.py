"""The stages of the hybrid task cascade.

Shapes: B batch, H/W sides of the padded images.
"""

from typing import Any

from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from vit_adapter.detection.cascade import CascadeMaskHeads, Features, Predictions
from vit_adapter.detection.htc.mask_head import mask_features
from vit_adapter.detection.htc.semantic_fusion import SemanticFusion
from vit_adapter.detection.htc.semantic_head import FusedSemanticHead
from vit_adapter.detection.sampling import log_samples

_EMBEDDING = "semantic_embedding"


class HybridTaskCascadeHeads(CascadeMaskHeads):
    """A cascade in which each mask head learns from the boxes that its own stage has refined.

    Mask heads read the features of the stage before, and box and mask heads those of a semantic
    branch, if there is one.

    Args:
        semantic_head: the semantic branch; None without it.
        semantic_pooler: pools its embedding inside boxes; not used without the branch.
        options: of :class:`~vit_adapter.detection.CascadeMaskHeads`. The mask heads, if there are
            any, are ``FlowMaskHead``.

    Raises:
        ValueError: there is a semantic head without its pooler.
    """

    def __init__(
        self,
        *,
        semantic_head: FusedSemanticHead | None = None,
        semantic_pooler: ROIPooler | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.semantic_head = semantic_head
        self.semantic_fusion = None
        if semantic_head is not None:
            if semantic_pooler is None:
                raise ValueError("semantic_head needs a semantic_pooler; give both, or neither")
            self.semantic_fusion = SemanticFusion(pooler=semantic_pooler)

    def forward(
        self,
        images: ImageList,
        features: Features,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        labels: Tensor | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Compute the losses of all stages in training, the detections at test time.

        Args:
            images, features, proposals, targets: see
                :meth:`~vit_adapter.detection.CascadeMaskHeads.forward`.
            labels: in training, (B, H, W) int64, semantic classes; see
                :meth:`FusedSemanticHead.losses`. Not used without the semantic branch.

        Returns:
            As the cascade does; with the semantic branch also the loss ``loss_sem_seg``.
        """
        if self.semantic_head is None:
            return super().forward(images, features, proposals, targets)
        scores, embedding = self.semantic_head(features)
        features = {**features, _EMBEDDING: embedding}
        result, losses = super().forward(images, features, proposals, targets)
        if self.training:
            losses |= self.semantic_head.losses(scores, labels)
        return result, losses

    def forward_with_given_boxes(
        self, features: Features, instances: list[Instances]
    ) -> list[Instances]:
        """Add ``pred_masks`` to boxes that are known."""
        if self.semantic_head is not None and _EMBEDDING not in features:
            features = {**features, _EMBEDDING: self.semantic_head(features)[1]}
        return super().forward_with_given_boxes(features, instances)

    def _losses(
        self, features: Features, proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        losses = {}
        for stage, weight in enumerate(self.stage_weights):
            regions = self._sample(stage, proposals, targets)
            predictions = self._predict(stage, features, regions)
            proposals = self._refine(stage, predictions, regions)
            with get_event_storage().name_scope(f"stage{stage}"):
                log_samples(regions, num_classes=self.num_classes)
                of_stage = self._box_losses(stage, predictions, regions)
                if self.mask_head is not None:
                    refined = self._sample(stage, proposals, targets)
                    of_stage |= self._mask_losses(stage, features, refined, targets)
            losses |= {f"{name}_stage{stage}": weight * loss for name, loss in of_stage.items()}
        return losses

    def _predict(self, stage: int, features: Features, regions: list[Instances]) -> Predictions:
        boxes = [image.proposal_boxes for image in regions]
        pooled = self.box_pooler([features[name] for name in self.box_in_features], boxes)
        return self.box_predictor[stage](self.box_head[stage](self._fuse(pooled, features, boxes)))

    def _pool_masks(self, features: Features, boxes: list[Boxes]) -> Tensor:
        return self._fuse(super()._pool_masks(features, boxes), features, boxes)

    def _fuse(self, pooled: Tensor, features: Features, boxes: list[Boxes]) -> Tensor:
        if self.semantic_fusion is None:
            return pooled
        return self.semantic_fusion(pooled, features[_EMBEDDING], boxes)

    def mask_inputs(self, pooled: Tensor, stages: int) -> list[Tensor]:
        return mask_features(self.mask_head[:stages], pooled)
