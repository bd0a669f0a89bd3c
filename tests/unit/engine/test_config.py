"""Config files and overrides: what is right is applied, what is wrong says what would be right."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from vit_adapter.engine.config import UsageError, load_config, resolve_device

CONFIG = """
from detectron2.config import LazyCall as L
from torch import nn

model = L(nn.Linear)(in_features=2, out_features="${model.in_features}")
train = dict(max_iter=10, output_dir="./output", amp=dict(enabled=False), steps=[1, 2])
data = dict(steps=[dict(size=3), dict(size=4)])
"""


@pytest.fixture()
def config_file(tmp_path: Path) -> str:
    file = tmp_path / "linear_tiny.py"
    file.write_text(CONFIG)
    return str(file)


def test_overrides_are_applied(config_file: str) -> None:
    cfg = load_config(
        config_file,
        ["train.max_iter=3", "train.amp.enabled=True", "model.in_features=7", "train.steps=[5]"],
    )
    assert cfg.train.max_iter == 3
    assert cfg.train.amp.enabled is True
    assert cfg.model.out_features == 7
    assert cfg.train.steps == [5]


def test_parameter_that_the_config_does_not_mention(config_file: str) -> None:
    assert load_config(config_file, ["model.bias=False"]).model.bias is False


def test_entry_of_a_list(config_file: str) -> None:
    assert load_config(config_file, ["data.steps.1.size=9"]).data.steps[1].size == 9
    with pytest.raises(UsageError, match=r"list of 2 entries; use data\.steps\.0 to .*\.1"):
        load_config(config_file, ["data.steps.2=9"])


def test_new_key_on_purpose(config_file: str) -> None:
    assert load_config(config_file, ["+train.note=abc"]).train.note == "abc"


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("train.max_iters=3", "train.max_iter"),
        ("trian.max_iter=3", "train.max_iter"),
        ("max_iter=3", "train.max_iter"),
        ("model.infeatures=3", "model.in_features"),
        ("train.amp.enable=True", "train.amp.enabled"),
        ("train.max_iter.x=3", "train.max_iter"),
    ],
)
def test_unknown_key_names_near_ones(config_file: str, override: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"unknown key.*Did you mean .*{near}"):
        load_config(config_file, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_iter", "is no key=value"),
        ("--max-iter=3", "unknown option"),
        ("~train.max_iter=10", "not supported"),
        ("train.output_dir=a,b", "names several values"),
        ("train.steps=[1", "cannot read the overrides"),
    ],
)
def test_override_that_cannot_be_read(config_file: str, override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(config_file, [override])


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


def test_device() -> None:
    def resolve(name: str) -> torch.device:
        return resolve_device(OmegaConf.create({"train": {"device": name}}))

    assert resolve("cpu") == torch.device("cpu")
    assert resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="is no device"):
        resolve("gpu")


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
