"""What replaces synchronised batch norm; test_processes.py covers several processes."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from vit_adapter.layers import sync_norm
from vit_adapter.layers.sync_norm import GlooSyncBatchNorm, adapt_sync_batch_norm


def make_model() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4, eps=1e-3, momentum=0.2))
    model = nn.ModuleDict({"a": inner, "b": nn.SyncBatchNorm(4, affine=False)})
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_()
    return model


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [model["a"][1], model["b"]]


def test_one_process_uses_plain_batch_norm() -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = [id(parameter) for parameter in model.parameters()]
    assert adapt_sync_batch_norm(model) is model
    assert [type(norm) for norm in norms_of(model)] == [nn.BatchNorm2d, nn.BatchNorm2d]
    assert (model["a"][1].eps, model["a"][1].momentum) == (1e-3, 0.2)
    assert model["b"].affine is False
    assert [id(parameter) for parameter in model.parameters()] == parameters
    after = model.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    model["a"](torch.randn(2, 3, 4, 4)).sum().backward()  # trains on the CPU


@pytest.mark.parametrize(
    ("backend", "expected"), [("gloo", GlooSyncBatchNorm), ("nccl", nn.SyncBatchNorm)]
)
def test_several_processes(
    monkeypatch: pytest.MonkeyPatch, backend: str, expected: type[nn.Module]
) -> None:
    monkeypatch.setattr(sync_norm.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    model = adapt_sync_batch_norm(make_model())
    assert [type(norm) for norm in norms_of(model)] == [expected, expected]


def test_model_that_is_a_norm_and_training_mode() -> None:
    assert type(adapt_sync_batch_norm(nn.SyncBatchNorm(2).eval())) is nn.BatchNorm2d
    assert adapt_sync_batch_norm(nn.SyncBatchNorm(2).eval()).training is False


def test_other_norms_are_kept() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2))
    children = list(model)
    adapt_sync_batch_norm(model)
    assert list(model) == children
