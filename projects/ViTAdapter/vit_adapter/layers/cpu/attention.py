"""Softmax attention that trains with all threads of a processor.

PyTorch splits the backward pass among threads by image and head. With the three heads of a tiny
ViT, one of two threads is idle half of the time, and most of sixteen threads always are. Keys can
be split, too.

Shapes: B batch, M heads, N tokens, D channels per head, P parts.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_adapter.layers.cpu.eager import is_observed, is_plain
from vit_adapter.ops.cpu_fast_paths import is_on
from vit_adapter.ops.exporting import is_exporting

MIN_KEYS = 256
"""The fewest keys per part. With 128, PyTorch's kernel takes 1.1 to 1.4 times as long per key."""


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """:func:`torch.nn.functional.scaled_dot_product_attention`; gradients may round differently.

    Args:
        query, key, value: (B, M, N, D).
        attn_mask: (B or 1, M or 1, N, N), added to the scaled products of query and key.
        dropout_p: probability to drop a weight; the caller sets it to 0 in evaluation.

    Returns:
        (B, M, N, D).
    """
    plain = attn_mask is None and dropout_p == 0
    if plain and is_on("attention") and _suits_parts(query, key, value):
        num_parts = _count_parts(query.shape[0] * query.shape[1], key.shape[2])
        if num_parts > 1:
            return _AttentionInParts.apply(query, key, value, num_parts)
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attn_mask, dropout_p=dropout_p
    )
    # The decompositions of exporters have other strides than the kernel, and views do not fit both.
    return output.clone(memory_format=torch.contiguous_format) if is_exporting() else output


class _AttentionInParts(torch.autograd.Function):
    """PyTorch's fused attention, whose backward pass gets parts of the keys as a batch.

    These are the blocks of FlashAttention (arXiv 2205.14135, algorithm 4), computed in parallel.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        num_parts: int,
    ) -> Tensor:
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        output, log_sum_exp = operator(query, key, value)
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        ctx.num_parts = num_parts
        return output

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_output: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output, log_sum_exp = ctx.saved_tensors
        num_parts, batch = ctx.num_parts, len(query)

        def repeat(tensor: Tensor) -> Tensor:  # (B, ...) -> (P * B, ...)
            return tensor.expand(num_parts, *tensor.shape).flatten(0, 1)

        def cut(tensor: Tensor) -> Tensor:  # (B, M, N, D) -> (P * B, M, N / P, D)
            return tensor.unflatten(2, (num_parts, -1)).movedim(2, 0).flatten(0, 1)

        def join(tensor: Tensor) -> Tensor:  # (P * B, M, N / P, D) -> (B, M, N, D)
            return tensor.unflatten(0, (num_parts, batch)).movedim(0, 2).flatten(2, 3)

        # The log-sum-exp of whole rows determines the softmax. So a key's gradient does not depend
        # on other keys, and a query's gradient is a sum over keys.
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        rows = (repeat(output), repeat(log_sum_exp))
        grad_query, grad_key, grad_value = operator(
            repeat(grad_output), repeat(query), cut(key), cut(value), *rows, 0.0, False
        )
        grad_query = grad_query.unflatten(0, (num_parts, batch)).sum(0)
        return grad_query, join(grad_key), join(grad_value), None


def _count_parts(num_tasks: int, num_keys: int) -> int:
    """The smallest number of equal parts of the keys that keeps the threads busiest."""
    threads = torch.get_num_threads()
    most = max(1, min(threads, num_keys // MIN_KEYS))
    choices = [parts for parts in range(1, most + 1) if num_keys % parts == 0]
    return min(choices, key=lambda parts: math.ceil(num_tasks * parts / threads) / parts)


def _suits_parts(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether gradients are needed and PyTorch would choose its fused kernel for the CPU."""
    tensors = (query, key, value)
    return (
        query.device.type == "cpu"
        and torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors)
        and not is_observed()
        and all(map(is_plain, tensors))
        and query.dim() == 4
        and query.shape == key.shape == value.shape
        and torch.backends.cuda.flash_sdp_enabled()
        and not torch.is_autocast_enabled("cpu")
    )
