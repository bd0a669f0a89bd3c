"""What ATSS and GFL share: anchors, their labels, and the choice of detections.

Shapes: B batch, A anchors of all levels, K classes, N detections, P positive anchors of the batch.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import batched_nms

from vit_adapter.detection.boxes import box_centers, clip_boxes, in_float32
from vit_adapter.detection.convertible import ConvertibleDetector
from vit_adapter.detection.dense.assigner import match_anchors
from vit_adapter.layers import map_to_tokens

__all__ = ["AnchorTargets", "AssigningDetector", "Detections"]


class AnchorTargets(NamedTuple):
    """What the anchors of a batch learn.

    Attributes:
        labels: (B, A); the class, K for background, -1 for anchors that are not used.
        boxes: (B, A, 4), the matched ground-truth boxes; zeros where there is none.
    """

    labels: Tensor
    boxes: Tensor


class Detections(NamedTuple):
    """Detections of one image, best first.

    Attributes:
        boxes: (N, 4).
        scores: (N,).
        classes: (N,).
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


class AssigningDetector(ConvertibleDetector, DenseDetector):
    """A dense detector with one square anchor per cell, which ATSS assigns to objects.

    Training does not use the anchors where an image is padded only because another image of its
    batch is larger.

    Args:
        backbone: computes the pyramid.
        head: returns lists of class logits, box predictions and, if there are any, centerness
            logits, with one map per level; see :class:`DenseHead`.
        head_in_features: names of the pyramid's levels; all of them by default.
        anchor_generator: makes the anchors of each level.
        num_classes: classes K.
        match_topk: anchors of each level that are candidates for an object.
        input_format: "RGB" or "BGR", the order of the channels of the images.
        pixel_mean: mean of each channel.
        pixel_std: standard deviation of each channel.
        test_score_thresh: class probability above which an anchor may become a detection.
        test_topk_candidates: most candidates, pairs of anchor and class, of a level.
        test_nms_thresh: IoU above which the worse of two detections of a class is removed.
        max_detections_per_image: most detections of an image.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str] | None = None,
        anchor_generator: nn.Module,
        num_classes: int,
        match_topk: int = 9,
        input_format: str = "BGR",
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
    ) -> None:
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        self.anchor_generator = anchor_generator
        self.num_classes = num_classes
        self.match_topk = match_topk
        self.input_format = input_format
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image

    @abstractmethod
    def losses(
        self, anchors: Sequence[Tensor], predictions: Sequence[Tensor], targets: AnchorTargets
    ) -> dict[str, Tensor]:
        """Compute the weighted training losses.

        Args:
            anchors: (number, 4) for each level.
            predictions: (B, A, channels) of each kind, in float32 or wider.
            targets: of the anchors.
        """

    @abstractmethod
    def decode(self, anchors: Tensor, predictions: Tensor, level: int) -> Tensor:
        """Make boxes (..., 4) from anchors (..., 4) and box predictions (..., channels)."""

    def forward_training(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        predictions: Sequence[Sequence[Tensor]],
        gt_instances: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch; see :meth:`losses`."""
        anchors = self.make_anchors(features)
        targets = self.label_anchors(anchors, images.image_sizes, gt_instances)
        with torch.autocast(features[0].device.type, enabled=False):
            kinds = [torch.cat([_to_rows(m) for m in levels], dim=1) for levels in predictions]
            return self.losses(anchors, kinds, targets)

    def forward_inference(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        predictions: Sequence[Sequence[Tensor]],
    ) -> list[Instances]:
        """Detect objects; the instances have ``pred_boxes``, ``scores`` and ``pred_classes``."""
        with torch.autocast(features[0].device.type, enabled=False):
            found = self.detect(images.image_sizes, features, predictions)
        return [
            Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
            for size, (boxes, scores, classes) in zip(images.image_sizes, found, strict=True)
        ]

    def make_anchors(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The anchors (number, 4) of each level, in float32 or the features' wider type."""
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        return [boxes.tensor.to(dtype) for boxes in self.anchor_generator(features)]

    @torch.no_grad()
    def label_anchors(
        self,
        anchors: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        gt_instances: Sequence[Instances],
    ) -> AnchorTargets:
        """Assign the anchors to the objects of each image.

        Args:
            anchors: (number, 4) for each level.
            image_sizes: (height, width) of each image before padding.
            gt_instances: ``gt_boxes`` and ``gt_classes`` of each image.
        """
        labels, boxes = [], []
        for size, instances in zip(image_sizes, gt_instances, strict=True):
            usable = [self._is_inside(level, size) for level in anchors]
            gt_boxes = instances.gt_boxes.tensor.to(anchors[0].dtype)
            candidates = [level[inside] for level, inside in zip(anchors, usable, strict=True)]
            matched, _ = match_anchors(candidates, gt_boxes, topk=self.match_topk)
            # The last entries are those of the anchors that matched nothing, whose index is -1.
            classes = torch.cat((instances.gt_classes, matched.new_tensor([self.num_classes])))
            rows = torch.cat((gt_boxes, gt_boxes.new_zeros(1, 4)))
            inside = torch.cat(usable)
            labels.append(matched.new_full(inside.shape, -1))
            labels[-1][inside] = classes[matched]
            boxes.append(rows.new_zeros(len(inside), 4))
            boxes[-1][inside] = rows[matched]
        return AnchorTargets(torch.stack(labels), torch.stack(boxes))

    def _is_inside(self, anchors: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Whether the cell of each anchor (number, 4) belongs to an image padded on its own."""
        divisor = max(self.backbone.size_divisibility, 1)
        height, width = (-(-side // divisor) * divisor for side in image_size)
        centers = box_centers(anchors)
        return (centers[:, 0] < width) & (centers[:, 1] < height)

    def detect(
        self,
        image_sizes: Sequence[tuple[int, int]],
        features: Sequence[Tensor],
        predictions: Sequence[Sequence[Tensor]],
    ) -> list[Detections]:
        """Choose the detections of each image, from predictions as the head returns them."""
        anchors = self.make_anchors(features)
        kinds = [[_to_rows(level) for level in levels] for levels in predictions]
        found = []
        for i, size in enumerate(image_sizes):
            levels = [
                self._detect_in_level(anchors[level], [maps[i] for maps in of_level], level)
                for level, of_level in enumerate(zip(*kinds, strict=True))
            ]
            boxes, scores, classes = (torch.cat(parts) for parts in zip(*levels, strict=True))
            found.append(self._choose(Detections(clip_boxes(boxes, size), scores, classes)))
        return found

    def _detect_in_level(
        self, anchors: Tensor, predictions: Sequence[Tensor], level: int
    ) -> Detections:
        """Decode the best candidates of one level of one image.

        Centerness changes the order of the candidates, but not their choice.
        """
        logits, boxes, *centerness = predictions
        scores = logits.sigmoid()
        anchor, label = (scores > self.test_score_thresh).nonzero(as_tuple=True)
        best = slice(self.test_topk_candidates)
        scores, order = scores[anchor, label].sort(descending=True)
        scores, anchor, label = scores[best], anchor[order[best]], label[order[best]]
        for factor in centerness:
            scores = scores * factor[anchor, 0].sigmoid()
        return Detections(self.decode(anchors[anchor], boxes[anchor], level), scores, label)

    def _choose(self, found: Detections) -> Detections:
        """Leave out empty boxes, suppress duplicates, and keep the best detections."""
        boxes = found.boxes
        filled = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]
        found = Detections(*(values[filled] for values in found))
        keep = batched_nms(*found, self.test_nms_thresh)[: self.max_detections_per_image]
        return Detections(*(values[keep] for values in found))


def _to_rows(predictions: Tensor) -> Tensor:
    """Reshape a map (B, C, H, W) to (B, H * W, C), in float32 or wider."""
    return in_float32(map_to_tokens(predictions))
