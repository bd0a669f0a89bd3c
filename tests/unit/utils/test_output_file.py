"""Outputs that a tool must not write."""

from pathlib import Path

import pytest

from vit_adapter.utils.output_file import check_output_file, check_writable


@pytest.mark.parametrize(
    ("target", "force", "message"),
    [
        ("new.npz", False, r"OUT must end in \.pth or \.pth\.tar, got .*new\.npz"),
        ("missing/new.pth", False, "the folder .*missing of OUT does not exist"),
        ("in.pth", True, "IN and OUT are the same file"),
        ("old.pth", False, r"old\.pth exists; .* --force"),
    ],
)
def test_refused(tmp_path: Path, target: str, force: bool, message: str) -> None:
    for name in ("in.pth", "old.pth"):
        (tmp_path / name).touch()
    with pytest.raises((OSError, ValueError), match=message):
        check_output_file(
            tmp_path / "in.pth", tmp_path / target, suffixes=(".pth", ".pth.tar"), force=force
        )


def test_accepted(tmp_path: Path) -> None:
    for name in ("in.pth", "old.pth"):
        (tmp_path / name).touch()
    for target, force in (("new.pth", False), ("old.pth", True)):
        check_output_file(tmp_path / "in.pth", tmp_path / target, suffixes=(".pth",), force=force)


def test_a_file_that_can_be_written_later(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json")
    check_writable(tmp_path / "new" / "a.json")
    assert (tmp_path / "old.json").read_text() == "old"
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("target", ["folder", "old.json/a.json", "old.json/b/a.json"])
def test_a_file_that_cannot_be_written(tmp_path: Path, target: str) -> None:
    (tmp_path / "old.json").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=f"{target} cannot be written"):
        check_writable(tmp_path / target)
