"""Weights that are joined on disk, and written without copies."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vit_adapter.checkpoint.large import join_on_disk, save_safetensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_joining_on_disk(tmp_path: Path, dtype: torch.dtype) -> None:
    parts = [torch.randn(2, 3).to(dtype), torch.randn(5, 3).to(dtype)]
    joined = join_on_disk(parts, tmp_path)
    assert torch.equal(joined, torch.cat(parts)) and joined.dtype == dtype
    assert list(tmp_path.iterdir()) == []  # nothing to clean up


def test_joining_nothing(tmp_path: Path) -> None:
    assert join_on_disk([torch.zeros(0, 3), torch.zeros(0, 3)], tmp_path).shape == (0, 3)


def test_joining_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        join_on_disk([torch.zeros(1)], tmp_path / "missing")


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    weights = {
        "whole": whole,
        "same": whole,
        "row": whole[1],
        "column": whole[:, 1],
        "turned": whole.T,
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
    }
    save_safetensors(weights, tmp_path / "x.safetensors", {"format": "pt"})
    stored = load_file(tmp_path / "x.safetensors")
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in weights.items())


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    def fail(*arguments: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match=r"x\.safetensors cannot be written: No space left"):
        save_safetensors({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {})
    assert list(tmp_path.iterdir()) == []
