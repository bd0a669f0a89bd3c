"""Operations are those that fvcore counts, which takes a product and a sum for one."""

import warnings
from collections import Counter
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape

from vit_adapter import PlainViT
from vit_adapter.benchmark.flops import flop_counter
from vit_adapter.ops import ms_deform_attn

# Norms and resizing are counted by fvcore only.
COUNTED = {"conv", "linear", "addmm", "matmul", "scaled_dot_product_attention"}


def attention(inputs: list[Any], outputs: list[Any]) -> Counter:
    """Count the two products of attention, which fvcore does not know."""
    query, key, value = map(get_shape, inputs[:3])
    tokens = query[0] * query[1] * query[2]
    return Counter({"scaled_dot_product_attention": tokens * key[2] * (query[3] + value[3])})


def test_a_vit_has_twice_the_operations_that_fvcore_counts() -> None:
    vit = PlainViT(img_size=64, embed_dim=24, depth=2, num_heads=2, window_sizes=[3, 0]).eval()
    images = torch.randn(2, 3, 64, 96)
    analysis = FlopCountAnalysis(vit, images)
    analysis.set_op_handle("aten::scaled_dot_product_attention", attention)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        found = analysis.by_operator()
    with torch.no_grad(), flop_counter() as counter:
        vit(images)
    assert found["scaled_dot_product_attention"] > 0
    assert counter.get_total_flops() == 2 * sum(found[name] for name in COUNTED)


def test_counts_the_operator() -> None:
    value = torch.randn(1, 25, 2, 8)
    locations = torch.full((1, 7, 2, 1, 4, 2), 0.5)
    with flop_counter() as counter:
        ms_deform_attn(value, [(5, 5)], locations, torch.full((1, 7, 2, 1, 4), 0.25))
    queries, heads, points, channels = 7, 2, 4, 8
    assert counter.get_total_flops() == queries * heads * points * channels * 10
