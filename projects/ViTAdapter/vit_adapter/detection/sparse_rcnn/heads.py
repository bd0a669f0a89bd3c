"""The stages of Sparse R-CNN as heads of a two-stage detector.

Shapes: B batch, P proposals of an image, C channels, K classes, N detections of an image.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from vit_adapter.detection.boxes import in_float32
from vit_adapter.detection.sparse_rcnn.criterion import ProposalCriterion
from vit_adapter.detection.sparse_rcnn.matcher import StagePredictions
from vit_adapter.detection.sparse_rcnn.stage import InteractionStage

__all__ = ["SparseHeads"]


class SparseHeads(nn.Module):
    """Refines the boxes and the features of proposals stage by stage.

    With :class:`LearnedProposals` as the proposal generator, Detectron2's ``GeneralizedRCNN`` is
    Sparse R-CNN. Each stage starts from the boxes of the one before, without their gradients.
    There is no NMS.

    Args:
        num_classes: classes K.
        in_features: names of the maps that boxes are pooled from.
        box_pooler: pools the features of boxes.
        stages: at least one.
        box2box_transform: codes the boxes of a stage relative to those of the one before.
        criterion: computes the losses.
        test_topk_per_image: most detections of an image; a proposal may be several of them, of
            different classes.

    Raises:
        ValueError: there are no stages.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: Sequence[str],
        box_pooler: ROIPooler,
        stages: Sequence[InteractionStage],
        box2box_transform: Box2BoxTransform,
        criterion: ProposalCriterion,
        test_topk_per_image: int = 300,
    ) -> None:
        super().__init__()
        if not stages:
            raise ValueError("stages must have at least one entry, got none")
        self.num_classes = num_classes
        self.in_features = list(in_features)
        self.box_pooler = box_pooler
        self.stages = nn.ModuleList(stages)
        self.box2box_transform = box2box_transform
        self.criterion = criterion
        self.test_topk_per_image = test_topk_per_image

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: Sequence[Instances],
        targets: Sequence[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Compute the losses of all stages in training, the detections at test time.

        Args:
            images: not used.
            features: maps of a pyramid.
            proposals: of each image, with ``proposal_boxes`` and ``proposal_features``.
            targets: in training, ground truths with ``gt_boxes`` and ``gt_classes``.

        Returns:
            The proposals and losses such as ``loss_cls_stage0``; at test time, the detections and
            no losses.
        """
        maps = [features[name] for name in self.in_features]
        predictions = list(self._refine(maps, proposals))
        if self.training:
            with torch.autocast(maps[0].device.type, enabled=False):
                return list(proposals), self.criterion(predictions, targets)
        logits, boxes = predictions[-1]
        found = [
            self._choose(scores, own_boxes, proposal.image_size)
            for scores, own_boxes, proposal in zip(logits.sigmoid(), boxes, proposals, strict=True)
        ]
        return found, {}

    def _refine(
        self, maps: list[Tensor], proposals: Sequence[Instances]
    ) -> Iterator[StagePredictions]:
        """Yield what each stage predicts."""
        boxes = torch.stack([image.proposal_boxes.tensor for image in proposals])
        objects = torch.stack([image.proposal_features for image in proposals])
        for stage in self.stages:
            regions = self.box_pooler(maps, [Boxes(of_image) for of_image in boxes.detach()])
            logits, deltas, objects = stage(regions, objects)
            decoded = self.box2box_transform.apply_deltas(deltas, boxes)
            yield StagePredictions(in_float32(logits), decoded)
            boxes = decoded.detach()

    def _choose(self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """Keep the best pairs of proposal and class, from scores (P, K) and boxes (P, 4)."""
        count = min(self.test_topk_per_image, scores.numel())
        scores, pairs = scores.flatten().topk(count)
        return Instances(
            image_size,
            pred_boxes=Boxes(boxes[pairs // self.num_classes]),
            scores=scores,
            pred_classes=pairs % self.num_classes,
        )
