"""The memory that a training step keeps is counted."""

import torch
from torch import nn

from vit_adapter.benchmark.modes import measure_memory


class Squares(nn.Module):
    """Autograd keeps its input and its activation, each once although both are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4, bias=False)
        self.fixed = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.linear(rows)
        return {"a": hidden * hidden.view(-1, 2, 2).flatten(1)}


def test_counts_each_storage_once():
    cost = measure_memory(Squares(), torch.randn(16, 8))
    rows, hidden, product = 16 * 8 * 4, 16 * 4 * 4, 16 * 4 * 4  # the loss squares the product
    assert cost.activations == rows + hidden + product
    assert cost.trainable == 32 and cost.gradients == 32 * 4
    assert cost.optimizer == 2 * 32 * 4 + 4  # two moments, and a counter
    assert cost.total == cost.activations + cost.gradients + cost.optimizer
