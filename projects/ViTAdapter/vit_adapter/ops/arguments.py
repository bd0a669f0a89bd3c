"""Checks of the arguments where no kernel runs: of plain PyTorch and of fake tensors.

The kernels make the same checks themselves, in ``csrc/ms_deform_attn.h``, in less time.

Shapes: B batch, S value tokens, M heads, D channels per head, Q queries, L levels, P points.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["check_arguments"]

_VALUE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_arguments(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    """Raise ValueError unless the arguments describe one attention and their dtypes go together.

    Args:
        value: (B, S, M, D).
        spatial_shapes: (H, W) of each of the L levels.
        sampling_locations: (B, Q, M, L, P, 2).
        attention_weights: (B, Q, M, L, P).
    """
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    _check_dtypes_and_devices(value, sampling_locations, attention_weights)


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
    if value.dtype not in _VALUE_DTYPES:
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
        if tensor.dtype not in _VALUE_DTYPES or not (both_double or neither_double):
            expected = "float64" if value.dtype == torch.float64 else "float32"
            raise ValueError(
                f"{name} must be {expected} to go with value of {value.dtype}, got {tensor.dtype}"
            )
