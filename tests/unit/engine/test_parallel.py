"""Parallel models in one process; ``test_processes.py`` uses two."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from vit_adapter.engine import parallel


class Wrapper(nn.Module):
    """Stands in for DistributedDataParallel, which needs a process group."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_one_process_needs_no_wrapper() -> None:
    model = nn.Linear(1, 1)
    assert parallel.parallelise(OmegaConf.create({"train": {}}), model) is model
    assert parallel.unwrap(model) is model


def test_state_has_plain_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "DistributedDataParallel", Wrapper)
    model = nn.Linear(1, 1)
    assert parallel.unwrap(Wrapper(model)) is model
    assert list(parallel.unwrap(Wrapper(model)).state_dict()) == ["weight", "bias"]


def test_optimizer_state_is_saved_and_loaded() -> None:
    first, second = (torch.optim.AdamW(nn.Linear(1, 1).parameters()) for _ in range(2))
    for parameter in first.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    first.step()
    state = parallel.gather_state(first.state_dict())
    parallel.load_optimizer_state(second, state)
    assert second.state_dict() == state
