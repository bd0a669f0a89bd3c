"""Attention whose gradients are computed in parts of the keys, compared with the formula."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from vit_adapter.layers import scaled_dot_product_attention
from vit_adapter.layers.cpu.attention import _count_parts


@pytest.fixture
def threads(monkeypatch):
    """A function that sets the number of threads that the module sees."""

    def pretend(number: int) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: number)

    return pretend


def make_leaves(batch: int = 1, num_tokens: int = 512, heads: int = 3) -> list[Tensor]:
    """Query, key and value (B, M, N, 8), strided like the output of a projection."""
    shape = batch, num_tokens, heads, 8
    return [torch.randn(shape).transpose(1, 2).requires_grad_() for _ in range(3)]


def formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return logits.softmax(-1) @ value


def is_in_parts(output: Tensor) -> bool:
    return output.grad_fn.name() == "_AttentionInPartsBackward"


@pytest.mark.parametrize(
    ("batch", "num_tokens", "num_threads"),
    [(1, 512, 2), (1, 518, 8), (1, 771, 9), (2, 768, 16), (3, 512, 2)],
)
def test_equals_the_formula(batch: int, num_tokens: int, num_threads: int, threads) -> None:
    threads(num_threads)
    leaves = make_leaves(batch, num_tokens)
    output = scaled_dot_product_attention(*leaves)
    assert is_in_parts(output)
    given = torch.randn_like(output)
    actual = torch.autograd.grad(output, leaves, given)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = formula(*doubles)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(
        actual, torch.autograd.grad(expected, doubles, given.double()), strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_inputs_without_gradient_and_recomputation(wanted: int, threads) -> None:
    threads(2)
    leaves = make_leaves()
    for position, leaf in enumerate(leaves):
        leaf.requires_grad_(position == wanted)
    results = []
    for run in (
        scaled_dot_product_attention,
        lambda *qkv: checkpoint(scaled_dot_product_attention, *qkv, use_reentrant=False),
        formula,
    ):
        results += torch.autograd.grad(run(*leaves).sin().sum(), leaves[wanted])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.parametrize(
    ("num_tasks", "num_keys", "num_threads", "expected"),
    [
        (3, 1024, 1, 1),
        (3, 1024, 2, 2),  # three halves instead of two wholes
        (6, 1024, 2, 1),
        (3, 1024, 16, 4),
        (3, 510, 16, 1),  # too few keys
        (3, 1031, 16, 1),  # a prime number
        (12, 4096, 16, 4),  # 48 parts for 16 threads
        (3, 12000, 64, 20),  # no more than needed: 40 would be no faster
    ],
)
def test_count_of_parts(
    num_tasks: int, num_keys: int, num_threads: int, expected: int, threads
) -> None:
    threads(num_threads)
    assert _count_parts(num_tasks, num_keys) == expected


def test_without_gradients_pytorch_is_used(threads) -> None:
    threads(2)
    leaves = make_leaves()
    with torch.no_grad():
        actual = scaled_dot_product_attention(*leaves)
        expected = torch.nn.functional.scaled_dot_product_attention(*leaves)
    assert torch.equal(actual, expected)


def test_other_calls_are_left_to_pytorch(threads) -> None:
    threads(2)
    leaves = make_leaves()
    assert is_in_parts(scaled_dot_product_attention(*leaves))
    mask = torch.randn(1, 3, 512, 512)
    expected = torch.nn.functional.scaled_dot_product_attention(*leaves, attn_mask=mask)
    assert torch.equal(scaled_dot_product_attention(*leaves, mask), expected)
    doubles = [leaf.double() for leaf in leaves]
    assert not is_in_parts(scaled_dot_product_attention(*doubles))
    with sdpa_kernel(SDPBackend.MATH):
        assert not is_in_parts(scaled_dot_product_attention(*leaves))
    with torch.autocast("cpu", torch.bfloat16):
        assert scaled_dot_product_attention(*leaves).dtype == torch.bfloat16
    with FlopCounterMode(display=False):
        assert not is_in_parts(scaled_dot_product_attention(*leaves))


def test_transformed_and_compiled(threads) -> None:
    threads(2)
    leaves = make_leaves()
    expected = torch.autograd.grad(formula(*leaves).sum(), leaves[0])[0]
    by_grad = torch.func.grad(lambda q: scaled_dot_product_attention(q, *leaves[1:]).sum())
    torch.testing.assert_close(by_grad(leaves[0]), expected)
    compiled = torch.compile(scaled_dot_product_attention, fullgraph=True, backend="aot_eager")
    output = compiled(*leaves)
    torch.testing.assert_close(output, formula(*leaves))
    torch.testing.assert_close(torch.autograd.grad(output.sum(), leaves[0])[0], expected)
