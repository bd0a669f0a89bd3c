"""The core of a model: the part whose shapes depend on nothing but the size of the images.

It is a function from one tensor to tensors without copies to the host, so it can be compiled into
one graph, or captured in a CUDA graph. What precedes it normalises and pads images; what follows
chooses and resizes results.

Shapes: B batch, C channels, H/W sides of the padded images.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from detectron2.modeling import GeneralizedRCNN, SemanticSegmentor
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor, nn

from vit_adapter.mask2former import Mask2Former
from vit_adapter.mask2former.transformer_decoder import MaskPredictions

__all__ = ["Core", "find_core"]


class Core(ABC):
    """The backbone of a model, and the head that follows it.

    Args:
        backbone: images -> maps by name.
        head: maps -> outputs; None if nothing else has fixed shapes.

    Attributes:
        backbone: the backbone.
        head: the head.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module | None) -> None:
        self.backbone = backbone
        self.head = head
        # Calls of the modules may be replaced by this core.
        self._compute_maps = backbone.forward
        self._compute_outputs = None if head is None else head.forward

    @abstractmethod
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute all tensors that are used later, of normalised images (B, C, H, W)."""

    @abstractmethod
    def restore(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], Any]:
        """Make what backbone and head return from the tensors of a call."""


class _Queries(Core):
    """Mask2Former: logits of classes and masks."""

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._compute_outputs(self._compute_maps(images))[-1])

    def restore(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], Any]:
        return {}, [MaskPredictions(*tensors)]


class _Scores(Core):
    """Semantic segmentation by pixels: scores at the size of the images."""

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._compute_outputs(self._compute_maps(images))[:1]

    def restore(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], Any]:
        return {}, (tensors[0], {})


class _Levels(Core):
    """Detectors: the maps, and what a head predicts at each cell of some of them.

    Args:
        backbone, head: see :class:`Core`.
        inputs: names of the maps that the head reads.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module | None, inputs: Sequence[str] = ()
    ) -> None:
        super().__init__(backbone, head)
        self._names = list(backbone.output_shape())
        self._inputs = list(inputs)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self._compute_maps(images)
        tensors = [maps[name] for name in self._names]
        if self._compute_outputs is not None:
            for levels in self._compute_outputs([maps[name] for name in self._inputs]):
                tensors += levels
        return tuple(tensors)

    def restore(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], Any]:
        maps = dict(zip(self._names, tensors, strict=False))
        rest, step = tensors[len(self._names) :], max(len(self._inputs), 1)
        return maps, tuple(list(rest[at : at + step]) for at in range(0, len(rest), step))


def find_core(model: nn.Module) -> Core:
    """Find the core of a model, which may be inside wrappers.

    Raises:
        ValueError: the model is of no kind that has one.
    """
    for module in model.modules():
        if isinstance(module, Mask2Former):
            return _Queries(module.backbone, module.head)
        if isinstance(module, SemanticSegmentor):
            return _Scores(module.backbone, module.sem_seg_head)
        if isinstance(module, DenseDetector):
            return _Levels(module.backbone, module.head, module.head_in_features)
        if isinstance(module, GeneralizedRCNN):
            proposals = module.proposal_generator
            if isinstance(proposals, RPN):
                return _Levels(module.backbone, proposals.rpn_head, proposals.in_features)
            return _Levels(module.backbone, None)
    raise ValueError(
        f"{type(model).__name__} has no core that can be compiled or captured; expected "
        "Mask2Former, a SemanticSegmentor, a dense detector or a GeneralizedRCNN"
    )
