"""Models as functions from images to a fixed list of tensors.

Shapes: B batch, H/W sides of the images, D channels, K classes, Q queries, N most detections.
"""

from collections.abc import Mapping

from detectron2.modeling import SemanticSegmentor
from timm.models.beit import Beit
from torch import Tensor, nn

from vit_adapter.backbone.beit import BEiT
from vit_adapter.backbone.timm_vit import TimmViT
from vit_adapter.config.errors import UsageError
from vit_adapter.export.shapes import MULTIPLE
from vit_adapter.layers import pad_to_multiple
from vit_adapter.mask2former import Mask2Former

__all__ = ["ExportableModel", "exportable", "why_one_size"]

_DETECTIONS = {
    "boxes": "(batch, N, 4): x1, y1, x2, y2 in pixels of the images",
    "scores": "(batch, N), best first; 0 in the rows after the last detection",
    "classes": "(batch, N): index into classes",
    "masks": "(batch, N, M, M): probabilities of the object in a grid over its box",
    "count": "(batch,): how many of the N rows are detections",
}


class ExportableModel(nn.Module):
    """A model of which everything is computed from one tensor of images.

    Args:
        model: has ``pixel_mean``, ``pixel_std`` and ``backbone``.
        outputs: the name and the meaning of each output, in order.

    Attributes:
        outputs: the same.
    """

    def __init__(self, model: nn.Module, outputs: Mapping[str, str]) -> None:
        super().__init__()
        self.model = model
        self.outputs = dict(outputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(self.outputs)

    @property
    def shortest_side(self) -> int:
        """The shortest side, in pixels, of images for a graph of any size.

        Exporters take a side of 1 for a constant, so every map needs more than one cell.
        """
        strides = [shape.stride for shape in self.model.backbone.output_shape().values()]
        return max(*strides, MULTIPLE) + MULTIPLE

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Normalise images (B, C, H, W) and pad them; return the maps of the backbone."""
        model = self.model
        normalised = (images - model.pixel_mean) / model.pixel_std
        return model.backbone(pad_to_multiple(normalised, max(model.backbone.size_divisibility, 1)))


class _Backbone(ExportableModel):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        backbone = self.model.backbone
        normalised = (images - self.model.pixel_mean) / self.model.pixel_std
        outputs = backbone(normalised)
        return tuple(outputs[name] for name in self.outputs)


class _Semantic(ExportableModel):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, _ = self.model.sem_seg_head(self.features(images))
        return (logits[..., : images.shape[-2], : images.shape[-1]],)


class _Queries(ExportableModel):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.head(self.features(images))[-1])


class _Detector(ExportableModel):
    def __init__(self, detector: nn.Module) -> None:
        super().__init__(
            detector.model, {name: _DETECTIONS[name] for name in detector.output_names}
        )
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.detector(images)


def exportable(model: nn.Module, *, backbone_only: bool = False) -> ExportableModel:
    """Wrap a model so that exporters accept it: (B, C, H, W) -> one tensor for each output.

    The images have the values that the model takes, usually 0 to 255, in its order of channels;
    normalisation and padding are part of the graph. The model is set to evaluation mode and
    converted to float32.

    Args:
        model: a model of this project, not wrapped for testing.
        backbone_only: whether the outputs are the maps of the backbone.

    Raises:
        UsageError: there is no exportable form of this model.
    """
    model = model.eval().float()
    if backbone_only:
        names = model.backbone.output_shape()
        strides = {name: shape.stride for name, shape in names.items()}
        return _Backbone(model, {name: _map(strides[name]) for name in strides}).eval()
    if isinstance(model, SemanticSegmentor):
        meaning = "(batch, classes, height, width): scores before the softmax"
        return _Semantic(model, {"logits": meaning}).eval()
    if isinstance(model, Mask2Former):
        outputs = {
            "class_logits": "(batch, queries, classes + 1): the last class is 'no object'",
            "mask_logits": "(batch, queries, h, w): masks of the padded image at stride 4",
        }
        return _Queries(model, outputs).eval()
    return _Detector(_exportable_detector(model)).eval()


def _map(stride: int) -> str:
    return f"(batch, channels, height / {stride}, width / {stride}), rounded up: features"


def _exportable_detector(model: nn.Module) -> nn.Module:
    from vit_adapter.export.detectors import exportable_detector

    try:
        return exportable_detector(model)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the model cannot be exported: {error}") from error


def why_one_size(model: nn.Module) -> str:
    """Why a graph of this model fits images of one size only; "" if it can fit any size."""
    for part in model.modules():
        is_table = isinstance(part, BEiT) and not all(block.attn.windowed for block in part.blocks)
        is_table |= isinstance(part, TimmViT) and isinstance(part.model, Beit)
        if is_table:
            return (
                "its ViT resizes a table of relative positions by a spline whose knots depend on "
                "the size, and no exporter has splines"
            )
    return ""
