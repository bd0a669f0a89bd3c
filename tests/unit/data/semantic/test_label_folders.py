"""Images and label maps matched by their names."""

import os
from pathlib import Path

import pytest

from vit_adapter.data.semantic.label_folders import find_label_pairs


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    return tmp_path / "images", tmp_path / "labels"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_pairs_are_sorted_and_searched_in_sub_folders(folders: tuple[Path, Path]) -> None:
    images, labels = folders
    touch(images, "b/1.JPG", "a.png", ".hidden.png", "notes.txt")
    touch(labels, "b/1.png", "a.tif", "b/._1.png")
    assert find_label_pairs(*folders) == [
        {"file_name": f"{images}/a.png", "sem_seg_file_name": f"{labels}/a.tif"},
        {"file_name": f"{images}/b/1.JPG", "sem_seg_file_name": f"{labels}/b/1.png"},
    ]


def test_endings_that_belong_to_no_name(folders: tuple[Path, Path]) -> None:
    images, labels = folders
    touch(images, "a_photo.jpg", "a_depth.jpg")
    touch(labels, "a_labels.png", "a_photo.png")
    for names in (None, ["a"]):
        records = find_label_pairs(
            *folders,
            names=names,
            image_suffixes=["_photo.jpg"],
            label_suffixes=["_labels.png"],
        )
        assert [Path(path).name for path in records[0].values()] == ["a_photo.jpg", "a_labels.png"]
        assert len(records) == 1


def test_only_the_requested_names_are_used(folders: tuple[Path, Path]) -> None:
    images, labels = folders
    touch(images, "a.jpg", "b.jpg", "c.jpg")
    touch(labels, "a.png", "b.png", "d.png")
    records = find_label_pairs(*folders, names=["b", "a"])
    assert [os.path.basename(record["file_name"]) for record in records] == ["a.jpg", "b.jpg"]
    with pytest.raises(ValueError, match=r"1 of 2 label maps are missing in .*labels: c\."):
        find_label_pairs(*folders, names=["a", "c"])


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_missing_folder(folders: tuple[Path, Path], missing: str) -> None:
    for folder in folders:
        touch(folder, "a.png")
    wrong = [folder.with_name("absent") if folder.name == missing else folder for folder in folders]
    expected = rf"{missing[:-1]} folder .*absent does not.* Help\."
    with pytest.raises(FileNotFoundError, match=expected):
        find_label_pairs(*wrong, advice="Help.")


def test_image_without_label(folders: tuple[Path, Path]) -> None:
    touch(folders[0], "a.jpg", "b.jpg", "c/d.jpg")
    touch(folders[1], "a.png")
    expected = r"2 of 3 label maps are missing in .*labels: b, c/d\."
    with pytest.raises(ValueError, match=expected):
        find_label_pairs(*folders)


def test_label_without_image(folders: tuple[Path, Path]) -> None:
    touch(folders[0], "a.jpg")
    touch(folders[1], "a.png", *(f"{i}.png" for i in range(7)))
    expected = r"7 of 8 images are missing in .*images: 0, 1, 2, 3, 4, \.\.\.\. .*in .*labels, ap"
    with pytest.raises(ValueError, match=expected):
        find_label_pairs(*folders)


def test_no_files(folders: tuple[Path, Path]) -> None:
    touch(folders[0], "a.jpg")
    touch(folders[1], "a.jpg")  # a format that changes values
    with pytest.raises(ValueError, match=r"label folder .*labels has no file that ends in \.png"):
        find_label_pairs(*folders)


def test_two_files_with_the_same_name(folders: tuple[Path, Path]) -> None:
    touch(folders[0], "a.jpg", "a.png")
    touch(folders[1], "a.png")
    with pytest.raises(ValueError, match=r"a\.(jpg|png) and .*a\.(jpg|png) differ only in"):
        find_label_pairs(*folders)
