"""The files of a feature cache."""

from __future__ import annotations

import errno
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vit_adapter.feature_cache import TapStore, store as store_module

KEY = "ab12"
SHAPE = (4, 2, 3, 8)


def make_taps() -> torch.Tensor:
    return torch.arange(192).view(SHAPE).to(torch.bfloat16)


def file_of(folder: Path) -> Path:
    (file,) = folder.rglob("*.safetensors")
    return file


def write(folder: Path) -> None:
    for _ in range(20):
        TapStore(folder).write(KEY, make_taps())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    store = TapStore(tmp_path)
    assert store.read(KEY, SHAPE) is None
    store.write(KEY, make_taps())
    assert torch.equal(TapStore(tmp_path).read(KEY, SHAPE), make_taps())
    assert store.stored_bytes() == file_of(tmp_path).stat().st_size
    assert store.stored_bytes() == pytest.approx(TapStore.file_bytes(SHAPE), abs=64)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def store_another_shape(file: Path) -> None:
    save_file({"taps": make_taps()[:2].contiguous()}, file, {"crc32": "0"})


def store_another_name(file: Path) -> None:
    save_file({"other": make_taps()}, file)


@pytest.mark.parametrize(
    "damage", [truncate, empty, flip_a_bit, store_another_shape, store_another_name]
)
def test_damaged_files_count_as_missing_and_are_named_once(
    damage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = TapStore(tmp_path)
    store.write(KEY, make_taps())
    damage(file_of(tmp_path))
    assert store.read(KEY, SHAPE) is None and store.read(KEY, SHAPE) is None
    assert store.num_corrupt == store.num_computed == 2
    (message,) = caplog.messages
    assert str(file_of(tmp_path)) in message and "computed again" in message
    store.write(KEY, make_taps())
    assert torch.equal(store.read(KEY, SHAPE), make_taps())


def test_several_processes_write_the_same_view(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(write, [tmp_path] * 2))
    assert torch.equal(TapStore(tmp_path).read(KEY, SHAPE), make_taps())
    assert [path.name for path in file_of(tmp_path).parent.iterdir()] == [f"{KEY}.safetensors"]


def test_a_full_disk_stops_the_writing_but_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module, "atomic_open", fail)
    store = TapStore(tmp_path)
    store.write(KEY, make_taps())
    store.write("cd34", make_taps())
    (message,) = caplog.messages
    assert "No space left on device" in message and str(tmp_path) in message
    assert "free some space" in message
