"""The folder check: disks that are full, folders that cannot be written to or read."""

from __future__ import annotations

import errno
import os
import sys
from types import SimpleNamespace

import pytest

from vit_adapter.doctor import folders
from vit_adapter.doctor.section import Finding, Options, Section

GIB = 2**30


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home folder and data sets in a temporary folder, on a disk with space."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "FVCORE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    set_space(monkeypatch, free=10 * GIB)
    return tmp_path


def set_space(monkeypatch, *, free: int) -> None:
    usage = SimpleNamespace(total=10 * GIB, free=free)
    monkeypatch.setattr(folders, "shutil", SimpleNamespace(disk_usage=lambda path: usage))


def of_output(section: Section) -> Finding:
    (finding,) = [f for f in section.findings if "for output" in f.what]
    return finding


def test_usable_folders(home):
    (home / "coco").mkdir()
    section = folders.check(Options(output=str(home / "new" / "run")))
    assert section.findings == []
    assert section.facts["output"] == f"{home}/new/run, 10.0 GiB free"
    assert section.facts["weights from PyTorch Hub"] == f"{home}/.cache/torch, 10.0 GiB free"
    assert section.facts["data sets"] == ["coco"]
    assert [path.name for path in home.iterdir()] == ["coco"]  # nothing is left behind


def test_a_full_disk(home, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", fail)
    section = folders.check(Options(output=str(home)))
    finding = of_output(section)
    assert finding.kind == "fault"
    assert finding.what == f"The folder for output, {home}, cannot be written to: the disk is full."
    assert "train.output_dir=FOLDER" in finding.fix and f"`df -h {home}`" in finding.fix
    # Caches are needed for downloads only.
    kinds = {f.what: f.kind for f in section.findings if "weights" in f.what}
    assert set(kinds.values()) == {"warning"} and len(kinds) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are those of Unix")
def test_a_limit_of_the_file_size(home):
    """A real failure while writing."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        finding = of_output(folders.check(Options(output=str(home))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert finding.kind == "fault"
    assert "cannot be written to: the size of files is limited (`ulimit -f`)" in finding.what


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs Linux's /sys")
def test_a_read_only_folder():
    """Nobody, not even root, can make files there."""
    finding = of_output(folders.check(Options(output="/sys/kernel/run")))
    assert finding.kind == "fault"
    assert "/sys/kernel/run, cannot be written to: it is " in finding.what
    assert "Choose another folder (train.output_dir=FOLDER), or make it writable" in finding.fix


def test_an_output_below_a_file(home):
    (home / "file").touch()
    finding = of_output(folders.check(Options(output=str(home / "file" / "run"))))
    assert "cannot be written to: Not a directory." in finding.what


def test_little_space(home, monkeypatch):
    set_space(monkeypatch, free=GIB // 8)
    finding = of_output(folders.check(Options(output=str(home))))
    assert finding.kind == "warning"
    assert "has only 128 MiB of free space" in finding.what


def test_no_folder_for_temporary_files(home, monkeypatch):
    def fail() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(folders.tempfile, "gettempdir", fail)
    (finding,) = folders.check(Options(output=str(home))).findings
    assert "no folder for temporary files" in finding.what
    assert "export TMPDIR=FOLDER" in finding.fix


def test_data_that_cannot_be_read(home, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(home / "gone"))
    (finding,) = folders.check(Options(output=str(home))).findings
    assert finding.kind == "warning"
    assert f"DETECTRON2_DATASETS={home}/gone cannot be read: No such file" in finding.what
    monkeypatch.delenv("DETECTRON2_DATASETS")  # your own data need no such folder
    monkeypatch.chdir(home)
    assert folders.check(Options(output=str(home))).findings == []


def test_small_shared_memory(home, monkeypatch):
    def usage(path: object) -> SimpleNamespace:
        return SimpleNamespace(total=GIB // 16 if path == home else 9 * GIB, free=9 * GIB)

    monkeypatch.setattr(folders, "SHARED_MEMORY", home)
    monkeypatch.setattr(folders.shutil, "disk_usage", usage)
    (finding,) = folders.check(Options(output=str(home / "run"))).findings
    assert "has only 64 MiB: data workers may be killed" in finding.what
    assert "--shm-size=8g" in finding.fix and "num_workers=0" in finding.fix
