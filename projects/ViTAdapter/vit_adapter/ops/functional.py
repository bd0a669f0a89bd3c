"""The public function: mixed precision and the choice of a backend.

Shapes: B batch, S value tokens (the sum of H * W over the levels), M heads, D channels per
head, Q queries, L levels, P points.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vit_adapter.ops.arguments import check_arguments
from vit_adapter.ops.exporting import is_exporting
from vit_adapter.ops.extension import Backend, load_extension, select_backend
from vit_adapter.ops.reference import (
    ms_deform_attn_embedding_bag,
    ms_deform_attn_gather,
    ms_deform_attn_reference,
)
from vit_adapter.ops.registration import ms_deform_attn_op

__all__ = ["ms_deform_attn"]

_16_BIT_DTYPES = (torch.bfloat16, torch.float16)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Compute multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 2).

    Every head of every query reads ``L * P`` points of its value maps by bilinear interpolation and
    adds them up with its attention weights. Differentiable once in all three tensors.

    Precision: 16-bit values are read and written in 16 bits, with arithmetic in float32. Locations
    and weights should then be float32, because a 16-bit location is off by up to a quarter of a
    pixel on a 128-pixel map; 16-bit ones are accepted and widened. Autocast casts float32 values to
    its dtype, but not locations and weights.

    Determinism: the forward pass is deterministic everywhere, the backward pass on the CPU for any
    number of threads. On CUDA, the order in which the gradient of ``value`` is summed may change
    from run to run, unless ``torch.use_deterministic_algorithms(True)`` is set.

    Args:
        value: (B, S, M, D) the maps of all levels, one after the other, each flattened row by row.
        spatial_shapes: (H, W) of each of the L levels as Python ints; S is the sum of H * W.
        sampling_locations: (B, Q, M, L, P, 2) points as (x, y); [0, 1] spans the map from edge to
            edge (``align_corners=False``), and the map is surrounded by zeros. A NaN or infinite
            point contributes nothing and receives no gradient.
        attention_weights: (B, Q, M, L, P), usually summing to one over L and P.

    Returns:
        (B, Q, M * D), head by head, in the dtype of ``value`` (under autocast, in that of
        autocast).

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
    """
    # A traced model must load where the operator is not registered.
    backend = "reference" if torch.jit.is_tracing() else _backend(value.device.type)
    value, sampling_locations, attention_weights = _to_compute_dtypes(
        value, sampling_locations, attention_weights
    )
    if backend == "kernel":  # it checks its arguments itself, in less time
        flat_shapes = [side for shape in spatial_shapes for side in shape]
        return ms_deform_attn_op(value, flat_shapes, sampling_locations, attention_weights)
    check_arguments(value, spatial_shapes, sampling_locations, attention_weights)
    compute = _FORMULATIONS[backend]
    return compute(value, spatial_shapes, sampling_locations, attention_weights)


_FORMULATIONS = {
    "embedding_bag": ms_deform_attn_embedding_bag,
    "gather": ms_deform_attn_gather,
    "reference": ms_deform_attn_reference,
}


@torch.compiler.assume_constant_result
def _backend(device_type: str) -> Backend | Literal["gather"]:
    """Return the backend of a device; a constant to torch.compile, which cannot trace this."""
    if is_exporting():
        return "gather"
    backend = select_backend(device_type)
    if backend == "reference" and device_type == "cuda":
        _warn_about_slow_cuda()
    return backend


@functools.cache
def _warn_about_slow_cuda() -> None:
    problem = load_extension().problem or "the extension has no CUDA kernels or is switched off"
    warnings.warn(
        f"Multi-scale deformable attention runs on CUDA as plain PyTorch, which is slow: {problem}",
        RuntimeWarning,
        stacklevel=3,
    )


def _to_compute_dtypes(
    value: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cast float32 values to autocast's dtype, and 16-bit locations and weights to float32."""
    value_dtype = value.dtype
    castable = value_dtype == torch.float32 and not value.is_meta  # which has no autocast
    if castable and torch.is_autocast_enabled(value.device.type):
        value = value.to(torch.get_autocast_dtype(value.device.type))
    if value_dtype != torch.float64:  # float64 values need float64 locations and weights
        if sampling_locations.dtype in _16_BIT_DTYPES:
            sampling_locations = sampling_locations.float()
        if attention_weights.dtype in _16_BIT_DTYPES:
            attention_weights = attention_weights.float()
    return value, sampling_locations, attention_weights
