"""What all backbones here share: four output strides, and images of any size.

Shapes: B batch, H/W image sides in pixels, D embed dim.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NoReturn

from detectron2.modeling.backbone import Backbone
from torch import Tensor

from vit_adapter.backbone.trunk import ViTTrunk, check_images
from vit_adapter.layers import crop_map, fix_traced_size, pad_to_multiple, to_fast_layout
from vit_adapter.layers.converted import in_dtype_of_weights
from vit_adapter.layers.pyramid import PYRAMID_STRIDE

# Detectron2's names of the strides 4, 8, 16 and 32.
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class PyramidBackbone(Backbone):
    """A ViT with outputs of strides 4, 8, 16 and 32, all of the ViT's width.

    Args:
        vit: the ViT.
        out_features: names of the outputs, keys of ``STRIDES``.

    Attributes:
        vit: the ViT.

    Raises:
        ValueError: the outputs are not distinct known names.
    """

    def __init__(self, vit: ViTTrunk, out_features: Sequence[str]) -> None:
        super().__init__()
        self._out_features = _check_out_features(out_features)
        self._out_feature_strides = dict(STRIDES)
        self._out_feature_channels = dict.fromkeys(STRIDES, vit.embed_dim)
        self.vit = vit

    def __prepare_scriptable__(self) -> NoReturn:
        # torch.jit.script calls this for every module. Its own error would blame an annotation.
        raise RuntimeError(
            "torch.jit.script cannot compile the modules of vit_adapter. Use torch.jit.trace (for "
            "a detector with detectron2.export.TracingAdapter) or torch.export."
        )

    @property
    def size_divisibility(self) -> int:
        """Sides that are multiples of this number of pixels need no padding."""
        return PYRAMID_STRIDE

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The same, in the form that later versions of Detectron2 ask for."""
        return {"size_divisibility": PYRAMID_STRIDE}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature pyramid.

        Sides that are not multiples of 32 are padded with zeros at the bottom and right, and the
        outputs are cropped to match. A graph from ``torch.jit.trace`` accepts only images that have
        the same size after padding.

        Args:
            images: (B, C, H, W), normalised, with the C channels of the ViT, H and W at least 1.
                They are converted to the dtype of a model in 16 bits.

        Returns:
            name -> (B, D, ceil(H / stride), ceil(W / stride)) for each of ``out_features``.

        Raises:
            ValueError: the images are not a non-empty float tensor of this shape.
        """
        check_images(images, self.vit.in_channels)
        images = in_dtype_of_weights(images, self)
        image_size = (images.shape[-2], images.shape[-1])
        outputs = self.compute(fix_traced_size(pad_to_multiple(images, PYRAMID_STRIDE)))
        return {
            name: to_fast_layout(crop_map(outputs[name], image_size, STRIDES[name]))
            for name in self._out_features
        }

    @abstractmethod
    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """Compute at least the wanted outputs (B, D, H / stride, W / stride) of padded images."""

    def wants(self, name: str) -> bool:
        """Whether the output of this name is wanted."""
        return name in self._out_features


def _check_out_features(out_features: Sequence[str]) -> list[str]:
    names = list(out_features)
    if not names or len(set(names)) != len(names) or not set(names) <= set(STRIDES):
        raise ValueError(f"out_features must be distinct names from {list(STRIDES)}, got {names}")
    return names
