"""Resuming from the newest checkpoint that can be read."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.files import CheckpointFileError, load_checkpoint_file
from vit_adapter.checkpoint.resumable import describe_damage, find_resumable


def write(folder: Path, *names: str, last: str | None = None) -> None:
    """Write checkpoints; ``last_checkpoint`` names the last of them unless ``last`` is given."""
    for name in names:
        torch.save({"model": {"w": torch.arange(1000.0)}}, folder / name)
    (folder / "last_checkpoint").write_text(names[-1] if last is None else last)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(torch.tensor(500.0).numpy().tobytes())] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "it does not exist": Path.unlink,
    "it is empty": lambda file: file.write_bytes(b""),
    "it is truncated": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "its content has changed (the checksum of": flip_a_bit,
    "it is truncated or not a checkpoint": lambda file: file.write_bytes(b"<html>" * 999),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGES.items())
def test_the_one_before_is_taken(
    message: str,
    damage: Callable[[Path], object],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(tmp_path, "model_0000001.pth", "model_0000003.pth", "model_0000005.pth")
    assert find_resumable(tmp_path).name == "model_0000005.pth"
    assert not caplog.text
    damage(tmp_path / "model_0000005.pth")
    assert find_resumable(tmp_path).name == "model_0000003.pth"
    assert f"model_0000005.pth: {message}" in caplog.text
    assert "model_0000003.pth" in caplog.text


def test_pytorch_does_not_notice_a_changed_byte(tmp_path: Path) -> None:
    write(tmp_path, "model_0000001.pth")
    file = tmp_path / "model_0000001.pth"
    assert describe_damage(file) is None
    flip_a_bit(file)
    assert not load_checkpoint_file(file)["model"]["w"].equal(torch.arange(1000.0))
    assert "checksum" in describe_damage(file)


def test_the_final_checkpoint_is_preceded_by_the_numbered_ones(tmp_path: Path) -> None:
    write(tmp_path, "model_0000003.pth", "model_0000011.pth", "model_best.pth", "model_final.pth")
    (tmp_path / "model_final.pth").write_bytes(b"")
    assert find_resumable(tmp_path).name == "model_0000011.pth"


def test_later_checkpoints_are_not_taken(tmp_path: Path) -> None:
    """The user has gone back to an earlier one."""
    write(tmp_path, "model_0000001.pth", "model_0000003.pth", "model_0000005.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth\n")
    assert find_resumable(tmp_path).name == "model_0000003.pth"
    (tmp_path / "model_0000003.pth").write_bytes(b"")
    assert find_resumable(tmp_path).name == "model_0000001.pth"


@pytest.mark.parametrize("last", ["", "model_\x00\x93"])
def test_a_damaged_list_of_checkpoints(
    last: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "model_0000001.pth", "model_0000003.pth", last=last)
    assert find_resumable(tmp_path).name == "model_0000003.pth"
    assert "last_checkpoint: it is empty" in caplog.text or "model_\x00\x93" in caplog.text


def test_no_checkpoint_can_be_read(tmp_path: Path) -> None:
    write(tmp_path, "model_0000001.pth", "model_0000003.pth")
    for file in tmp_path.glob("*.pth"):
        file.write_bytes(file.read_bytes()[:200])
    pattern = "last_checkpoint names model_0000003.*\n.*model_0000003.*truncated.*\n.*model_0000001"
    with pytest.raises(CheckpointFileError, match=pattern) as caught:
        find_resumable(tmp_path)
    assert re.search("Restore one of these.*without --resume", str(caught.value))


def test_a_damaged_directory_of_the_file(tmp_path: Path) -> None:
    """A single bit says that the content is encrypted."""
    write(tmp_path, "model_0000001.pth", "model_0000003.pth")
    file = tmp_path / "model_0000003.pth"
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] ^= 1
    file.write_bytes(content)
    assert "it cannot be read" in describe_damage(file)
    assert find_resumable(tmp_path).name == "model_0000001.pth"


def test_damage_without_a_checksum(tmp_path: Path) -> None:
    write(tmp_path, "model_0000001.pth")
    file = tmp_path / "model_0000001.pth"
    content = file.read_bytes()
    name = b"model_0000001/data.pkl"
    assert name in content
    file.write_bytes(content.replace(name, name.replace(b"data.pkl", b"dada.pkl")))
    assert describe_damage(file) is not None


@pytest.mark.parametrize(
    ("damaged", "damage"),
    [
        ("rest.pth", lambda file: file.write_bytes(file.read_bytes()[:-9])),
        ("*.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-9])),
        ("*.safetensors", Path.unlink),
    ],
)
def test_folders(
    damaged: str,
    damage: Callable[[Path], object],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpointer = Checkpointer(nn.Linear(3, 3), str(tmp_path), sharded=True)
    for name in ("model_0000001", "model_0000003"):
        checkpointer.save(name)
    checkpointer.wait()
    assert find_resumable(tmp_path).name == "model_0000003.sharded"
    assert "cannot be used" not in caplog.text
    damage(next((tmp_path / "model_0000003.sharded").glob(damaged)))
    assert find_resumable(tmp_path).name == "model_0000001.sharded"
    assert "model_0000003.sharded" in caplog.text
