"""The public function: argument checks, mixed precision, and the choice of a backend.

Shapes: B batch, S value tokens (the sum of H * W over the levels), M heads, D channels per
head, Q queries, L levels, P points.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vit_adapter.ops import registration
from vit_adapter.ops.exporting import is_exporting
from vit_adapter.ops.extension import Backend, load_extension, select_backend
from vit_adapter.ops.reference import (
    ms_deform_attn_embedding_bag,
    ms_deform_attn_gather,
    ms_deform_attn_reference,
)

__all__ = ["ms_deform_attn"]

VALUE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    _check_dtypes_and_devices(value, sampling_locations, attention_weights)
    value, sampling_locations, attention_weights = _to_compute_dtypes(
        value, sampling_locations, attention_weights
    )
    # TorchScript cannot hold the operator, and a traced model must load where it is not registered.
    backend = "reference" if torch.jit.is_tracing() else _backend(value.device.type)
    if backend == "kernel":
        flat_shapes = [side for shape in spatial_shapes for side in shape]
        return registration.ms_deform_attn_op(
            value, flat_shapes, sampling_locations, attention_weights
        )
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


def _check_shapes(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    """Raise ValueError unless the four arguments describe one attention."""
    if value.dim() != 4:
        raise ValueError(f"value must be (B, S, M, D), got shape {tuple(value.shape)}")
    if sampling_locations.dim() != 6 or sampling_locations.shape[-1] != 2:
        raise ValueError(
            "sampling_locations must be (B, Q, M, L, P, 2), "
            f"got shape {tuple(sampling_locations.shape)}"
        )
    if len(spatial_shapes) == 0:
        raise ValueError("spatial_shapes is empty; give the (H, W) of every level")
    tokens = 0
    for height, width in spatial_shapes:
        if height < 1 or width < 1:
            raise ValueError(f"spatial_shapes must be positive (H, W), got {list(spatial_shapes)}")
        tokens += height * width
    batch, spatial, heads, _ = value.shape
    if tokens != spatial:
        raise ValueError(
            f"spatial_shapes {list(spatial_shapes)} hold {tokens} tokens in all, "
            f"but value has S = {spatial} (shape {tuple(value.shape)})"
        )
    _, queries, _, _, points, _ = sampling_locations.shape
    expected = (batch, queries, heads, len(spatial_shapes), points, 2)
    if tuple(sampling_locations.shape) != expected:
        raise ValueError(
            f"sampling_locations must be (B, Q, M, L, P, 2) = {expected} to fit value of shape "
            f"{tuple(value.shape)} and {len(spatial_shapes)} levels, "
            f"got {tuple(sampling_locations.shape)}"
        )
    if tuple(attention_weights.shape) != expected[:-1]:
        raise ValueError(
            f"attention_weights must be (B, Q, M, L, P) = {expected[:-1]} as sampling_locations, "
            f"got {tuple(attention_weights.shape)}"
        )


def _check_dtypes_and_devices(
    value: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> None:
    """Raise ValueError unless the tensors share a device and have dtypes that go together."""
    if value.dtype not in VALUE_DTYPES:
        raise ValueError(
            f"value must be float32, float64, bfloat16 or float16, got {value.dtype}; "
            "convert it with value.float()"
        )
    others = {"sampling_locations": sampling_locations, "attention_weights": attention_weights}
    for name, tensor in others.items():
        if tensor.device != value.device:
            raise ValueError(
                f"{name} is on {tensor.device}, but value is on {value.device}; "
                "move them to one device"
            )
        # float64 must not silently lose digits, nor be paired with less precise locations.
        both_double = tensor.dtype == value.dtype == torch.float64
        neither_double = torch.float64 not in (tensor.dtype, value.dtype)
        if tensor.dtype not in VALUE_DTYPES or not (both_double or neither_double):
            expected = "float64" if value.dtype == torch.float64 else "float32"
            raise ValueError(
                f"{name} must be {expected} to go with value of {value.dtype}, got {tensor.dtype}"
            )


def _to_compute_dtypes(
    value: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cast float32 values to autocast's dtype, and 16-bit locations and weights to float32."""
    device_type = value.device.type
    if value.dtype == torch.float32 and torch.is_autocast_enabled(device_type):
        value = value.to(torch.get_autocast_dtype(device_type))
    wide = torch.float64 if value.dtype == torch.float64 else torch.float32
    # With a cold cache, casts that change nothing cost more than all checks.
    if sampling_locations.dtype != wide:
        sampling_locations = sampling_locations.to(wide)
    if attention_weights.dtype != wide:
        attention_weights = attention_weights.to(wide)
    return value, sampling_locations, attention_weights
