"""Checkpoints that are folders, in one process; ``test_sharding.py`` has several."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.checkpoint import sharded
from vit_adapter.checkpoint.checkpointer import Checkpointer, CheckpointWriteError
from vit_adapter.checkpoint.files import (
    CheckpointFileError,
    load_checkpoint_file,
    load_state_dict_file,
)


class State:
    """Stands in for a trainer."""

    def __init__(self, value: float) -> None:
        self.average = torch.full((3, 2), value)

    def state_dict(self) -> dict[str, object]:
        generator = torch.tensor([1, 2], dtype=torch.uint8)
        return {"iteration": 7, "state": [{5: self.average}], "generator": generator}


def save(folder: Path, name: str = "model_0000007", value: float = 2.0) -> nn.Module:
    model = nn.BatchNorm1d(3)
    nn.init.constant_(model.weight, value)
    checkpointer = Checkpointer(model, str(folder), trainer=State(value), sharded=True)
    checkpointer.save(name, iteration=7)
    with torch.no_grad():
        model.weight.zero_()  # training goes on
    checkpointer.wait()
    return model


def test_round_trip(tmp_path: Path) -> None:
    save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000007.sharded",
    ]
    model = nn.BatchNorm1d(3)
    rest = Checkpointer(model, str(tmp_path)).resume_or_load("")
    assert torch.equal(model.weight, torch.full((3,), 2.0))
    assert rest["iteration"] == rest["trainer"]["iteration"] == 7
    assert torch.equal(rest["trainer"]["state"][0][5], torch.full((3, 2), 2.0))
    assert rest["trainer"]["generator"].tolist() == [1, 2]


def test_no_file_can_hold_code(tmp_path: Path) -> None:
    save(tmp_path)
    files = sorted(path.name for path in (tmp_path / "model_0000007.sharded").iterdir())
    assert files[0] == sharded.REST and len(files) == 2 and files[1].endswith(".safetensors")
    (tmp_path / "model_0000007.sharded" / sharded.REST).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointFileError):
        load_checkpoint_file(tmp_path / "model_0000007.sharded")


def test_weights_are_read_without_the_state_of_the_trainer(tmp_path: Path) -> None:
    save(tmp_path)
    folder = tmp_path / "model_0000007.sharded"
    assert load_checkpoint_file(folder)["trainer"]["state"][0][5].is_meta
    weights = load_state_dict_file(folder)
    assert list(weights) == list(nn.BatchNorm1d(3).state_dict())
    assert all(type(value) is Tensor and not value.is_meta for value in weights.values())


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_damaged_folder(damage: str, tmp_path: Path) -> None:
    save(tmp_path)
    (file,) = tmp_path.glob("*.sharded/*.safetensors")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    else:
        file.unlink()
    with pytest.raises(CheckpointFileError, match="sharded.*damaged, incomplete"):
        load_checkpoint_file(file.parent)


def test_a_folder_of_that_name_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, value=1.0)
    save(tmp_path, value=3.0)
    weights = load_state_dict_file(tmp_path / "model_0000007.sharded")
    assert weights["weight"].tolist() == [3.0] * 3
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_is_left_of_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sharded, "publish_folder", fail)
    with pytest.raises(
        CheckpointWriteError, match=r"model_0000008.sharded could not be.*No space left"
    ):
        save(tmp_path, "model_0000008")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000007.sharded",
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.sharded"


def test_old_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sharded.dcp, "HuggingFaceStorageWriter")
    with pytest.raises(RuntimeError, match="needs a version of PyTorch that has"):
        Checkpointer(nn.Linear(1, 1), sharded=True)


def test_without_pytorch_s_classes_only_these_folders_are_refused(tmp_path, monkeypatch) -> None:
    save(tmp_path)
    for name in ("HuggingFaceStorageReader", "HuggingFaceStorageWriter"):
        monkeypatch.delattr(f"torch.distributed.checkpoint.{name}")
    spec = importlib.util.spec_from_file_location("sharded_on_old_torch", sharded.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # everything else can be used
    with pytest.raises(CheckpointFileError, match="cannot read such a folder: update PyTorch"):
        load_checkpoint_file(tmp_path / "model_0000007.sharded")
