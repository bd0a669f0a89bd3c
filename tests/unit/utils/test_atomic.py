"""Files and folders that are either complete or absent."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vit_adapter.utils.atomic import TEMPORARY_MARK, atomic_folder, atomic_open, atomic_save


def test_atomic_save_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"old")
    atomic_save({"model": {"a": torch.arange(3)}}, file)
    assert torch.load(file)["model"]["a"].equal(torch.arange(3))
    assert os.listdir(tmp_path) == ["w.pth"]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be opened there")
def test_written_file_and_its_name_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file)))
    with atomic_open(tmp_path / "w.txt") as stream:
        stream.write("text")
    file, folder = synced
    assert (file.st_ino, file.st_size) == ((tmp_path / "w.txt").stat().st_ino, 4)
    assert folder.st_ino == tmp_path.stat().st_ino


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be opened there")
def test_a_folder_that_cannot_be_flushed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError("invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    with atomic_open(tmp_path / "w.txt") as stream:
        stream.write("text")
    assert (tmp_path / "w.txt").read_text() == "text"


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text("old")
    with pytest.raises(RuntimeError, match="disk"), atomic_open(file) as stream:
        stream.write("half of the n")
        stream.flush()
        unfinished = [name for name in os.listdir(tmp_path) if TEMPORARY_MARK in name]
        assert len(unfinished) == 1
        assert file.read_text() == "old"
        raise RuntimeError("disk full")
    assert os.listdir(tmp_path) == ["results.json"]
    assert file.read_text() == "old"


@pytest.fixture()
def full_disk() -> Iterator[None]:
    """Let files of more than 64 KiB fail to be written."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_failed_save_names_the_cause_and_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"old")
    with pytest.raises(OSError, match="File too large"):
        atomic_save({"model": {"a": torch.zeros(1 << 16)}}, file)
    assert os.listdir(tmp_path) == ["w.pth"] and file.read_bytes() == b"old"


@pytest.mark.usefixtures("full_disk")
def test_failed_write_names_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=f"File too large: '{tmp_path}/label.png'"),
        atomic_open(tmp_path / "label.png", "wb", flush=False) as stream,
    ):
        stream.write(bytes(1 << 17))
    assert os.listdir(tmp_path) == []


def test_without_flushing_nothing_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: pytest.fail("waited for the disk"))
    with atomic_open(tmp_path / "w.txt", flush=False) as stream:
        stream.write("text")
    assert (tmp_path / "w.txt").read_text() == "text"


def test_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "set") as folder:
        (folder / "a.txt").write_text("text")
        assert TEMPORARY_MARK in folder.name and not (tmp_path / "new" / "set").exists()
    assert (tmp_path / "new" / "set" / "a.txt").read_text() == "text"
    assert os.listdir(tmp_path / "new") == ["set"]


def test_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="disk"), atomic_folder(tmp_path / "set") as folder:
        (folder / "a.txt").write_text("text")
        raise RuntimeError("disk is full")
    assert not os.listdir(tmp_path)


def test_folder_does_not_replace_an_existing_one(tmp_path: Path) -> None:
    with pytest.raises(OSError), atomic_folder(tmp_path / "set"):
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "others.txt").write_text("text")
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "others.txt"]
