"""The device of a config."""

import pytest
import torch
from omegaconf import OmegaConf

from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import UsageError


def test_device() -> None:
    def resolve(name: str) -> torch.device:
        return resolve_device(OmegaConf.create({"train": {"device": name}}))

    assert resolve("cpu") == torch.device("cpu")
    assert resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="is not a device"):
        resolve("gpu")


@pytest.mark.parametrize("name", ["vulkan", "fpga", "hpu:0", "mtia", "meta"])
def test_device_that_is_not_available(name: str) -> None:
    with pytest.raises(UsageError, match=f"train.device={name} cannot be used here; use auto"):
        resolve_device(OmegaConf.create({"train": {"device": name}}))


def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device is visible"):
        resolve_device(OmegaConf.create({"train": {"device": "cuda"}}))


def test_cuda_device_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device(OmegaConf.create({"train": {"device": "cuda:1"}})).index == 1
    with pytest.raises(UsageError, match="train.device=cuda:2 does not exist; .* are 0 to 1"):
        resolve_device(OmegaConf.create({"train": {"device": "cuda:2"}}))
