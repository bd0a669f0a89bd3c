"""Floating-point operations of a forward pass, with the operator and attention."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import vit_adapter.ops  # noqa: F401  (registers the operator)

__all__ = ["flop_counter"]

_SAMPLE_FLOPS = 8  # of a bilinear sample per channel: four products and sums


def flop_counter() -> FlopCounterMode:
    """Return a context that counts operations, a product and a sum as two.

    It counts matrix products, convolutions, attention and multi-scale deformable attention, as
    they run; ``get_total_flops()`` returns the sum. Norms, activations and resizing do not count.
    """
    return FlopCounterMode(display=False, custom_mapping=_formulas())


def _formulas() -> dict[Any, Callable[..., int]]:
    """The operators that PyTorch's counter does not know -> their floating-point operations."""
    formulas: dict[Any, Callable[..., int]] = {
        torch.ops.vit_adapter.ms_deform_attn: _deformable_attention_flops
    }
    attention = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if attention is not None:
        formulas[attention] = _attention_flops
    return formulas


def _deformable_attention_flops(
    value: Sequence[int],
    spatial_shapes: Sequence[int],
    locations: Sequence[int],
    weights: Sequence[int],
    **kwargs: Any,
) -> int:
    """A bilinear sample and a weighted sum for each point and channel; arguments are shapes."""
    return math.prod(weights) * value[-1] * (_SAMPLE_FLOPS + 2)


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """The two products of attention; arguments are the shapes (..., tokens, channels)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
