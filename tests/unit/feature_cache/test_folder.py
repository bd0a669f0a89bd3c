"""The folder of a feature cache: what it was made with, and the space on its disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vit_adapter.feature_cache import check_folder, claim_folder, free_bytes

TRUNK = {"weights": "a" * 64, "blocks": [2, 5], "dtype": "float32"}
DATA = {"dataset": "some images"}


def test_a_folder_is_accepted_again_by_the_same_trunk(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    assert check_folder(folder, TRUNK) is None
    assert not folder.exists()  # checking writes nothing
    claim_folder(folder, TRUNK, DATA)
    assert check_folder(folder, TRUNK) == DATA


def test_differences_are_named_with_both_sides(tmp_path: Path) -> None:
    claim_folder(tmp_path, TRUNK, DATA)
    with pytest.raises(ValueError, match="belongs to another ViT") as caught:
        check_folder(tmp_path, {**TRUNK, "weights": "b" * 64, "dtype": "bfloat16"})
    text = str(caught.value)
    assert str(tmp_path) in text
    assert f"weights: {'a' * 12} in the cache, {'b' * 12} in this run" in text
    assert 'dtype: "float32" in the cache, "bfloat16" in this run' in text
    assert "blocks" not in text
    assert "Give another folder" in text and "delete" in text


def test_options_of_only_one_side_differ(tmp_path: Path) -> None:
    claim_folder(tmp_path, TRUNK, DATA)
    with pytest.raises(ValueError, match="window: null in the cache, 14 in this run"):
        check_folder(tmp_path, {**TRUNK, "window": 14})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"notes.txt": "x"}, "not empty, but has no feature_cache.json"),
        ({"feature_cache.json": "{"}, "is damaged"),
        ({"feature_cache.json": "[]"}, "is damaged"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, content: dict, message: str) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        check_folder(tmp_path, TRUNK)


def test_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cache"
    file.write_text("")
    with pytest.raises(ValueError, match=re.escape(f"{file} is a file, expected a folder")):
        check_folder(file, TRUNK)


def test_space_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0
