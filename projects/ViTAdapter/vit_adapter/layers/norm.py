"""Normalisation layers of feature maps, alone and after a convolution.

Shapes: B batch, C channels, H/W height and width of a map.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d, get_norm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vit_adapter.layers.cpu.batch_norm import normalise_cells
from vit_adapter.layers.cpu.convolution import to_fast_layout
from vit_adapter.layers.cpu.eager import is_observed, is_plain
from vit_adapter.layers.derived import DerivesTensors

_NAMES = ("BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN", "GN", "LN")
_LAYER_NORM_EPS = 1e-6  # of Detectron2's "LN", which its version 0.6 does not have


def build_norm(norm: str, channels: int) -> nn.Module:
    """Build a norm by Detectron2's name for it; "SyncBN" is plain batch norm in a single process.

    Args:
        norm: "BN", "SyncBN", "naiveSyncBN" (also synchronises CPU processes), "naiveSyncBN_N",
            "FrozenBN", "GN", "LN" (over the channels of every position), or "" for none.
        channels: channels of the map.

    Raises:
        ValueError: the name is not known.
    """
    if norm == "":
        return nn.Identity()
    if norm not in _NAMES:
        raise ValueError(f"unknown norm {norm!r}; expected one of {', '.join(_NAMES)} or ''")
    if norm == "LN":
        return ChannelLayerNorm(channels, eps=_LAYER_NORM_EPS)
    return get_norm(norm, channels)


def norm_builder(norm: str) -> Callable[[int], nn.Module]:
    """Return what builds a norm of a number of channels; Detectron2's heads accept it as a norm.

    Args:
        norm: see :func:`build_norm`.
    """
    return partial(build_norm, norm)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of every position of a map (B, C, H, W)."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, C, H, W), for the layout see :func:`to_fast_layout`."""
        normed = super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return to_fast_layout(normed)


class ConvNormSequential(DerivesTensors, nn.Sequential):
    """Runs layers in order; in evaluation, folds each batch norm into the convolution before it.

    Folding saves a pass over the map. The folded weights are kept until the weights change; states
    and gradients are those of a plain :class:`torch.nn.Sequential`. Nothing is folded while
    gradients are recorded, or if the norm takes its statistics from the batch. Forward hooks of two
    layers that run as one are not called.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the output of the last layer."""
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if layers and _can_fold(layer, layers[0]):
                features = self._convolve_and_normalise(features, layer, layers.pop(0))
            else:
                features = layer(features)
        return features

    def _convolve_and_normalise(
        self, features: Tensor, conv: nn.Conv2d, norm: _BatchNorm | FrozenBatchNorm2d
    ) -> Tensor:
        """Compute ``norm(conv(features))`` as one convolution."""
        sources = conv.weight, conv.bias, *_constants(norm)
        weight, bias = self.derived.get(
            [source for source in sources if source is not None],
            id(conv),
            lambda: _fold(conv, norm),
        )
        sizes = conv.stride, conv.padding, conv.dilation, conv.groups
        return F.conv2d(features, weight, bias, *sizes)


def normalise_map(norm: nn.Module, features: Tensor, *, in_place: bool = False) -> Tensor:
    """Normalise a map (B, C, H, W) with channels-last strides as fast as possible.

    Where gradients are recorded on the CPU, a batch norm gets the map's cells, see
    :func:`~vit_adapter.layers.cpu.batch_norm.normalise_cells`, and other norms a contiguous map. On
    CUDA the strides stay as they are.

    Args:
        norm: the norm. Forward hooks of a batch norm are not called when it is applied in place,
            and see (B * H * W, C, 1, 1) when it gets cells.
        features: the map.
        in_place: whether a batch norm in evaluation may overwrite ``features``. This is done in
            float32 on the CPU, where new memory for a large map takes longer than the arithmetic.

    Returns:
        (B, C, H, W).
    """
    if in_place and is_plain(features) and not is_observed() and _has_constants(norm):
        scale, shift = (values.view(-1, 1, 1) for values in _scale_and_shift(norm))
        if features.dtype == scale.dtype:
            return torch.addcmul(shift, features, scale, out=features)
    if features.is_cuda or not torch.is_grad_enabled():
        return norm(features)
    if features.device.type == "cpu" and type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return normalise_cells(norm, features)
    return norm(features.contiguous())


def _has_constants(norm: nn.Module) -> bool:
    """Whether a norm scales and shifts each channel by constants, and no gradient is recorded."""
    if torch.is_grad_enabled():
        return False
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    has_statistics = isinstance(norm, _BatchNorm) and norm.running_mean is not None
    return has_statistics and norm.affine and not norm.training


def _scale_and_shift(norm: _BatchNorm | FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """The factors (C,) and offsets (C,) that a norm applies to channels, in float32 or wider."""
    wide = torch.promote_types(norm.weight.dtype, torch.float32)
    scale = norm.weight * (norm.running_var.to(wide) + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def _can_fold(layer: nn.Module, following: nn.Module) -> bool:
    """Whether two layers are a convolution and a norm with constant factors and offsets."""
    is_convolution = type(layer) is nn.Conv2d and layer.padding_mode == "zeros"
    return is_convolution and _has_constants(following)


def _constants(norm: _BatchNorm | FrozenBatchNorm2d) -> tuple[Tensor, ...]:
    """What the factors and offsets of a norm are made from."""
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def _fold(conv: nn.Conv2d, norm: _BatchNorm | FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and a norm in one, folded in float32 or wider."""
    scale, shift = _scale_and_shift(norm)
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    weight = (conv.weight * scale.view(-1, 1, 1, 1)).to(conv.weight.dtype)
    return weight, shift.to(weight.dtype)
