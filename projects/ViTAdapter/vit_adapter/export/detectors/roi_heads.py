"""Box and mask heads of two-stage detectors on tensors of a fixed size.

Each class here does at test time what the heads of its family do with lists of ``Instances``, using
their modules and their settings.

Shapes: B batch, R regions of an image, N detections of an image, K classes, C channels, S side of
the pooled features, M side of a mask, H/W sides of the image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor, nn

from vit_adapter.detection.box_predictor import choose_deltas
from vit_adapter.detection.boxes import clip_boxes
from vit_adapter.export.detectors.detections import Candidates, Results, choose_results
from vit_adapter.export.detectors.pooling import pool_regions
from vit_adapter.export.detectors.suppression import choose_rows, top_scores

__all__ = ["CascadeHeads", "HybridHeads", "MeanLogitsHeads", "RegionHeads"]

Features = dict[str, Tensor]
Size = tuple[int, int]

# Pairs of a region and a class that reach NMS, for each image. Detectron2 takes all whose score
# exceeds the threshold, usually a few hundred. TensorRT's TopK finds at most 3,840.
_MAX_CANDIDATES = 3000


class RegionHeads:
    """The heads of Mask R-CNN.

    Args:
        heads: Detectron2's ``StandardROIHeads`` or a subclass.
    """

    def __init__(self, heads: nn.Module) -> None:
        self.heads = heads

    @property
    def predictor(self) -> FastRCNNOutputLayers:
        """The output layers that have the settings of the test."""
        return self.heads.box_predictor

    def prepare(self, features: Features) -> Features:
        """Add maps that the heads themselves compute."""
        return features

    def detect(
        self, features: Features, regions: Tensor, is_proposal: Tensor, image_size: Size
    ) -> Results:
        """Find the detections of each image.

        Args:
            features: maps of a pyramid, after :meth:`prepare`.
            regions: (B, R, 4).
            is_proposal: (B, R) bool; the other regions are ignored.
            image_size: (H, W), before padding.
        """
        probabilities, boxes = self.predict(features, regions, image_size)
        usable = boxes.isfinite().all(-1) & probabilities.isfinite().all(-1)
        usable = usable & is_proposal.flatten()
        scores = probabilities[:, :-1]
        num_classes = scores.shape[1]
        usable = usable[:, None] & (scores > self.predictor.test_score_thresh)
        scores = scores.masked_fill(~usable, 0.0).unflatten(0, is_proposal.shape).flatten(1)
        count = self.predictor.test_topk_per_image
        scores, pairs = top_scores(scores, max(count, _MAX_CANDIDATES))
        # Boxes of one region, or of one region and class.
        rows = pairs // num_classes if boxes.shape[1] == 4 else pairs
        boxes = boxes.unflatten(0, is_proposal.shape).unflatten(2, (-1, 4)).flatten(1, 2)
        boxes = clip_boxes(choose_rows(boxes, rows), image_size)
        return choose_results(
            Candidates(boxes, scores, pairs % num_classes),
            num_classes=num_classes,
            iou_threshold=self.predictor.test_nms_thresh,
            count=count,
        )

    def predict(
        self, features: Features, regions: Tensor, image_size: Size
    ) -> tuple[Tensor, Tensor]:
        """Predict for all regions.

        Returns:
            Probabilities (B * R, K + 1), those of the background last, and boxes (B * R, 4) or
            (B * R, K * 4), not clipped.
        """
        logits, deltas = self.predictor(self.heads.box_head(self.pool_boxes(features, regions)))
        boxes = self.predictor.box2box_transform.apply_deltas(deltas, regions.flatten(0, 1))
        return logits.softmax(-1), boxes

    def predict_masks(self, features: Features, results: Results) -> Tensor:
        """Probabilities (B, N, M, M) that pixels belong to the object, in the frame of its box."""
        pooled = self.pool_masks(features, results.boxes)
        masks = self.mask_probabilities(pooled, results.classes.flatten())
        masks = masks.unflatten(0, results.classes.shape)
        return torch.where(results.found[..., None, None], masks, 0.0)

    def mask_probabilities(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Masks (B * N, M, M) of the given classes (B * N,), from features (B * N, C, S, S)."""
        return _of_classes(self.heads.mask_head.layers(pooled), classes).sigmoid()

    def pool_boxes(self, features: Features, boxes: Tensor) -> Tensor:
        """Features (B * R, C, S, S) of boxes (B, R, 4) for the box head."""
        return self._pool(features, boxes, "box")

    def pool_masks(self, features: Features, boxes: Tensor) -> Tensor:
        """Features (B * N, C, S, S) of boxes (B, N, 4) for the mask head."""
        return self._pool(features, boxes, "mask")

    def _pool(self, features: Features, boxes: Tensor, branch: str) -> Tensor:
        pooler = getattr(self.heads, f"{branch}_pooler")
        names = getattr(self.heads, f"{branch}_in_features")
        return pool_regions(pooler, [features[name] for name in names], boxes)


class CascadeHeads(RegionHeads):
    """The heads of Detectron2's Cascade R-CNN: several box heads, one mask head."""

    @property
    def predictor(self) -> FastRCNNOutputLayers:
        """Those of the last stage."""
        return self.heads.box_predictor[-1]

    def predict(
        self, features: Features, regions: Tensor, image_size: Size
    ) -> tuple[Tensor, Tensor]:
        """Refine the regions stage by stage; scores are averaged over the stages."""
        all_logits: list[Tensor] = []
        stages = list(zip(self.heads.box_head, self.heads.box_predictor, strict=True))
        for head, predictor in stages:
            logits, deltas = predictor(head(self.pool_boxes(features, regions)))
            all_logits.append(logits)
            apply = predictor.box2box_transform.apply_deltas
            if len(all_logits) < len(stages):
                chosen = choose_deltas(deltas, logits[:, :-1].argmax(dim=1))
                refined = apply(chosen, regions.flatten(0, 1)).view_as(regions)
                regions = clip_boxes(refined, image_size)
        return self.average(all_logits), apply(deltas, regions.flatten(0, 1))

    def average(self, logits: Sequence[Tensor]) -> Tensor:
        """Probabilities from the logits of all stages."""
        return torch.stack(list(logits)).softmax(-1).mean(dim=0)


class MeanLogitsHeads(CascadeHeads):
    """The heads of the original's Cascade Mask R-CNN, with a mask head in each stage."""

    def average(self, logits: Sequence[Tensor]) -> Tensor:
        """Probabilities of the mean logits."""
        return torch.stack(list(logits)).mean(dim=0).softmax(-1)

    def mask_probabilities(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """The mean of the stages' masks."""
        heads = self.heads.mask_head
        inputs = self.heads.mask_inputs(pooled, len(heads))
        logits = [head.layers(each) for head, each in zip(heads, inputs, strict=True)]
        return torch.stack([_of_classes(each, classes).sigmoid() for each in logits]).mean(dim=0)


class HybridHeads(MeanLogitsHeads):
    """The heads of the hybrid task cascade, with or without the semantic branch."""

    def prepare(self, features: Features) -> Features:
        """Add the embedding of the semantic branch."""
        if self.heads.semantic_head is None:
            return features
        return {**features, _EMBEDDING: self.heads.semantic_head(features)[1]}

    def _pool(self, features: Features, boxes: Tensor, branch: str) -> Tensor:
        pooled = super()._pool(features, boxes, branch)
        if self.heads.semantic_fusion is None:
            return pooled
        embedding = pool_regions(self.heads.semantic_fusion.pooler, [features[_EMBEDDING]], boxes)
        return pooled + F.adaptive_avg_pool2d(embedding, pooled.shape[-2:])


_EMBEDDING = "semantic_embedding"


def _of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """Masks (n, M, M) of classes (n,), from logits (n, K, M, M), or (n, 1, M, M) for any class."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return choose_rows(logits, classes[:, None])[:, 0]
