"""Config files: what is wrong says what would be right."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import load_config

CONFIG = """
from detectron2.config import LazyCall as L
from torch import nn

model = L(nn.Linear)(in_features=2, out_features="${model.in_features}")
train = dict(max_iter=10)
"""


@pytest.fixture()
def config_file(tmp_path: Path) -> str:
    file = tmp_path / "linear_tiny.py"
    file.write_text(CONFIG)
    return str(file)


def test_overrides_are_applied(config_file: str) -> None:
    assert load_config(config_file, ["train.max_iter=3"]).train.max_iter == 3
    with pytest.raises(UsageError, match=rf"unknown key 'max_iter' .* of {config_file}"):
        load_config(config_file, ["max_iter=3"])


def test_missing_config_names_near_files(config_file: str) -> None:
    wrong = config_file.replace("linear_tiny", "linear_tinny")
    with pytest.raises(UsageError, match=r"does not exist\. Did you mean .*linear_tiny\.py"):
        load_config(wrong)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "use --config-file"),
        ("model.txt", r"has to end in \.py"),
        ("nowhere/model.py", "There is no folder 'nowhere'"),
    ],
)
def test_config_that_cannot_be_a_file(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "model: [", "cannot be read as YAML"),
        ("a.yaml", "f: !!python/name:None.%3Clambda%3E ''", "give the original config file"),
        ("a.yaml", "f: !!python/name:no_such_module.f ''", "give the original config file"),
        ("a.yaml", "classes: ['${price']", r"interpolation that cannot be read: .* \\\$\{"),
        ("a.py", "data = dict(classes=['${price'])", "interpolation that cannot be read"),
    ],
)
def test_config_that_cannot_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=rf"(?s)config file {tmp_path / name} .*{message}"):
        load_config(str(tmp_path / name))


def test_device() -> None:
    def resolve(name: str) -> torch.device:
        return resolve_device(OmegaConf.create({"train": {"device": name}}))

    assert resolve("cpu") == torch.device("cpu")
    assert resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="is no device"):
        resolve("gpu")


@pytest.mark.parametrize("name", ["vulkan", "fpga", "hpu:0", "mtia", "meta"])
def test_device_that_is_lacking(name: str) -> None:
    with pytest.raises(UsageError, match=f"train.device={name} cannot be used here; use auto"):
        resolve_device(OmegaConf.create({"train": {"device": name}}))


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device is visible"):
        resolve_device(OmegaConf.create({"train": {"device": "cuda"}}))


def test_cuda_device_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device(OmegaConf.create({"train": {"device": "cuda:1"}})).index == 1
    with pytest.raises(UsageError, match="train.device=cuda:2, .* from 0 to 1"):
        resolve_device(OmegaConf.create({"train": {"device": "cuda:2"}}))
