"""Detectors as functions of tensors, which can be exported.

Shapes: B batch, C channels of an image, H/W sides of the images, N most detections of an image, M
side of a predicted mask.
"""

from abc import abstractmethod

import torch.nn.functional as F
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from torch import Tensor, nn

from vit_adapter.detection import (
    ATSS,
    GFL,
    AssigningROIHeads,
    CascadeMaskHeads,
    InsideAnchorsRPN,
    LearnedProposals,
    PaddedRCNN,
    SparseHeads,
    TwoStageDetector,
)
from vit_adapter.detection.htc import HybridTaskCascade, HybridTaskCascadeHeads
from vit_adapter.export.detectors.checks import check_parts, refuse
from vit_adapter.export.detectors.dense import detect_densely
from vit_adapter.export.detectors.detections import Results
from vit_adapter.export.detectors.proposals import find_proposals
from vit_adapter.export.detectors.roi_heads import (
    CascadeHeads,
    HybridHeads,
    MeanLogitsHeads,
    RegionHeads,
)
from vit_adapter.export.detectors.sparse import detect_sparsely
from vit_adapter.layers import pad_to_multiple

__all__ = ["ExportableDetector", "exportable_detector"]

# Exact types: a subclass may do something else.
_TWO_STAGE = (GeneralizedRCNN, TwoStageDetector, PaddedRCNN, HybridTaskCascade)
_ONE_STAGE = (ATSS, GFL)
_PROPOSALS = (RPN, InsideAnchorsRPN)
_HEADS: dict[type[nn.Module], type[RegionHeads]] = {
    StandardROIHeads: RegionHeads,
    AssigningROIHeads: RegionHeads,
    CascadeROIHeads: CascadeHeads,
    CascadeMaskHeads: MeanLogitsHeads,
    HybridTaskCascadeHeads: HybridHeads,
}


class ExportableDetector(nn.Module):
    """A detector from images to detections, all of them tensors of a fixed size.

    Args:
        model: the detector.

    Attributes:
        output_names: names of the outputs, in order.
    """

    output_names: tuple[str, ...] = ("boxes", "scores", "classes", "count")

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            images: (B, C, H, W) float, usually from 0 to 255, in the model's order of channels.

        Returns:
            Detections, best first. Where an image has less than N, the other rows are 0.

            - boxes (B, N, 4): x1, y1, x2, y2 in pixels of the images;
            - scores (B, N);
            - classes (B, N) int64;
            - masks (B, N, M, M), if the model has masks: probabilities of the object, over its box;
            - count (B,) int64: how many rows are detections.
        """
        size = (images.shape[-2], images.shape[-1])
        normalized = (images - self.model.pixel_mean) / self.model.pixel_std
        padded = pad_to_multiple(normalized, max(self.model.backbone.size_divisibility, 1))
        results, masks = self.detect(self.model.backbone(padded), size)
        count = results.found.sum(dim=1)
        return (*results[:3], count) if masks is None else (*results[:3], masks, count)

    @abstractmethod
    def detect(
        self, features: dict[str, Tensor], image_size: tuple[int, int]
    ) -> tuple[Results, Tensor | None]:
        """Detect objects in images of a size before padding, given the features of the backbone.

        Returns:
            The detections and, if the model has masks, these (B, N, M, M).
        """


class _OneStage(ExportableDetector):
    def detect(
        self, features: dict[str, Tensor], image_size: tuple[int, int]
    ) -> tuple[Results, Tensor | None]:
        return detect_densely(self.model, features, image_size), None


class _Sparse(ExportableDetector):
    def detect(
        self, features: dict[str, Tensor], image_size: tuple[int, int]
    ) -> tuple[Results, Tensor | None]:
        return detect_sparsely(self.model, features, image_size), None


class _TwoStage(ExportableDetector):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.heads = _HEADS[type(model.roi_heads)](model.roi_heads)
        if model.roi_heads.mask_on:
            self.output_names = ("boxes", "scores", "classes", "masks", "count")

    def detect(
        self, features: dict[str, Tensor], image_size: tuple[int, int]
    ) -> tuple[Results, Tensor | None]:
        regions, found = find_proposals(self.model.proposal_generator, features, image_size)
        features = self.heads.prepare(features)
        results = self.heads.detect(features, regions, found, image_size)
        if not self.model.roi_heads.mask_on:
            return results, None
        return results, self.heads.predict_masks(features, results)


class _EverySecondPixel(LastLevelMaxPool):
    """Detectron2's last level as a convolution.

    With a pooling or a slice, PyTorch 2.11 exports graphs that refuse some sizes.
    """

    def forward(self, x: Tensor) -> list[Tensor]:
        channels = x.shape[1]
        return [F.conv2d(x, x.new_ones(channels, 1, 1, 1), stride=2, groups=channels)]


def exportable_detector(model: nn.Module) -> ExportableDetector:
    """Wrap a detector so that ``torch.export`` and ``torch.onnx.export`` accept it.

    The result computes what ``model.inference(..., do_postprocess=False)`` computes in evaluation
    mode. Two things differ: padded rows take the place of lists of different lengths, and at
    most 3,000 pairs of a region and a class of each image reach NMS. The latter changes nothing
    unless NMS leaves less than N of these.

    Args:
        model: Mask R-CNN, Cascade Mask R-CNN, the hybrid task cascade, ATSS, GFL or Sparse R-CNN.
            It is set to evaluation mode, and shares its parameters with the result. A last level of
            the pyramid that pools single pixels becomes a convolution.

    Raises:
        TypeError: the model, or a part of it, cannot be exported.
        ValueError: the number of detections has no limit.
    """
    check_parts(model)
    if type(model) in _ONE_STAGE:
        return _OneStage(model).eval()
    if type(model) not in _TWO_STAGE:
        refuse("the detector", model, _ONE_STAGE + _TWO_STAGE)
    proposals, heads = model.proposal_generator, model.roi_heads
    if type(proposals) is LearnedProposals and type(heads) is SparseHeads:
        return _Sparse(model).eval()
    if type(proposals) not in _PROPOSALS:
        refuse("proposal_generator of the model", proposals, _PROPOSALS)
    if type(heads) not in _HEADS:
        refuse("roi_heads of the model", heads, tuple(_HEADS))
    top_block = getattr(model.backbone, "top_block", None)
    if type(top_block) is LastLevelMaxPool:
        model.backbone.top_block = _EverySecondPixel()
        model.backbone.top_block.in_feature = top_block.in_feature
    return _TwoStage(model).eval()
