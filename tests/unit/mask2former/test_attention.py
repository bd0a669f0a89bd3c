"""Attention, compared with torch.nn.MultiheadAttention, and feed-forward networks."""

import pytest
import torch
from torch import nn

from vit_adapter.mask2former.attention import Attention, FeedForward


@pytest.mark.parametrize("masked", [False, True])
def test_equals_torch(masked: bool) -> None:
    ours = Attention(16, num_heads=4).double()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours.load_state_dict(theirs.state_dict())
    query, key, value = (torch.randn(2, n, 16, dtype=torch.float64) for n in (3, 5, 5))
    allowed = torch.rand(2, 1, 3, 5) > 0.5 if masked else None
    hidden = None
    if masked:
        allowed[..., 0] = True
        hidden = ~allowed[:, 0].repeat_interleave(4, 0)
    expected, _ = theirs(query, key, value, attn_mask=hidden)
    torch.testing.assert_close(ours(query, key, value, allowed), expected)


@pytest.mark.parametrize(("width", "heads"), [(10, 4), (0, 1), (8, 0)])
def test_refuses_heads_that_do_not_fit(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of num_heads, got {width} and {heads}"):
        Attention(width, num_heads=heads)


def test_recomputation_changes_nothing() -> None:
    plain = FeedForward(8, 12)
    frugal = FeedForward(8, 12, use_checkpoint=True)
    frugal.load_state_dict(plain.state_dict())
    tokens = torch.randn(2, 3, 8, requires_grad=True)
    results = []
    for network in (plain, frugal):
        output = network(tokens)
        results.append((output, *torch.autograd.grad(output.square().sum(), tokens)))
    torch.testing.assert_close(*results)
    plain_saved, frugal_saved = (_saved_elements(network, tokens) for network in (plain, frugal))
    assert frugal_saved < plain_saved


def _saved_elements(network: FeedForward, tokens: torch.Tensor) -> int:
    """Count what a forward pass keeps for the backward pass."""
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(tokens)
    return sum(sizes)


def test_feed_forward_refuses_a_width_of_zero() -> None:
    with pytest.raises(ValueError, match="at least 1, got 8 and 0"):
        FeedForward(8, 0)
