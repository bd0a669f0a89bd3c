"""Label maps that do not fit their image or the classes."""

import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from vit_adapter.data import read_image
from vit_adapter.data.semantic.label_checks import (
    check_label_files,
    check_values,
    ignore_label,
    read_pair,
)


def write(folder: Path, name: str, labels: np.ndarray, size: tuple[int, int] = (6, 4)) -> dict:
    record = {"file_name": f"{folder}/{name}.jpg", "sem_seg_file_name": f"{folder}/{name}.png"}
    Image.new("RGB", size).save(record["file_name"])
    Image.fromarray(labels).save(record["sem_seg_file_name"])
    return record


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_allowed_values(dtype: type) -> None:
    labels = np.array([[0, 1], [2, 255]], dtype=dtype)
    checked = check_values(labels, 3, "a.png")
    assert checked.dtype == np.uint8 and np.array_equal(checked, labels)


def test_an_image_without_pixels_that_count_is_allowed() -> None:
    check_values(np.full((3, 3), 255, np.uint8), 2, "a.png")


@pytest.mark.parametrize("ignored", [0, 2, 7, 254, 65535, -1])
def test_other_ignored_labels_become_255(ignored: int) -> None:
    labels = np.array([[0, 1], [2, ignored]], np.int32)
    checked = check_values(labels, 3, "a.png", ignore_label=ignored)
    assert checked.dtype == np.uint8
    assert np.array_equal(checked, np.where(labels == ignored, 255, labels))


def test_255_is_not_a_class_if_another_label_is_ignored() -> None:
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    with pytest.raises(ValueError, match="values 255 in 1 pixels.* 0 to 2, and 0 for pixels that"):
        check_values(labels, 3, "a.png", ignore_label=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.array([[0, 3], [7, 7]], np.uint8),
            "a.png has the values 3, 7 in 3 pixels.* 3 classes: labels are 0 to 2, and 255",
        ),
        (np.array([[0, 70000], [-1, 255]], np.int32), "the values -1, 70000 in 2 pixels"),
        (np.arange(20, dtype=np.uint8).reshape(4, 5), r"3, 4, 5, 6, 7, 8, 9, 10, \.\.\. in 17"),
    ],
)
def test_values_without_class(labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(labels, 3, "a.png")


def test_files_with_other_sizes(tmp_path: Path) -> None:
    records = [
        write(tmp_path, "a", np.zeros((4, 6), np.uint8)),
        write(tmp_path, "b", np.zeros((6, 4), np.uint8)),
    ]
    with pytest.raises(ValueError, match=r"b\.jpg has 6 x 4 pixels .*b\.png has 4 x 6"):
        check_label_files(records, 1)


def test_files_with_colours_instead_of_labels(tmp_path: Path) -> None:
    record = write(tmp_path, "a", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png has pixels of mode RGB, but labels need one"):
        check_label_files([record], 1)


def test_the_indices_of_a_palette_are_the_labels(tmp_path: Path) -> None:
    record = write(tmp_path, "a", np.zeros((4, 6), np.uint8))
    picture = Image.new("P", (6, 4), 2)
    picture.putpalette([0] * 6 + [255, 128, 7] + [0] * 759)
    picture.save(record["sem_seg_file_name"])
    check_label_files([record], 3)
    with pytest.raises(ValueError, match=r"a\.png has the values 2 in 24 pixels"):
        check_label_files([record], 2)


def test_only_some_files_are_read(tmp_path: Path) -> None:
    records = [write(tmp_path, str(i), np.full((4, 6), i == 7, np.uint8)) for i in range(10)]
    check_label_files(records, 1, most=2)  # the first and the sixth
    with pytest.raises(ValueError, match=r"7\.png has the values 1"):
        check_label_files(records, 1)


def masks(folder: Path, *values: list[int]) -> list[dict]:
    """Write label maps with these values."""
    pictures = [np.resize(np.array(v, np.uint8), (4, 6)) for v in values]
    return [write(folder, str(i), labels) for i, labels in enumerate(pictures)]


@pytest.mark.parametrize("values", [[[0, 255]], [[0], [255]], [[1, 255], [1]]])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_one_class_and_255_are_refused(tmp_path: Path, values: list, num_classes: int) -> None:
    records = masks(tmp_path, *values)
    message = r"hold only [01] and 255 .*0\.png .*paint program wrote 255"
    with pytest.raises(ValueError, match=message):
        check_label_files(records, num_classes)


@pytest.mark.parametrize("values", [[[0, 1, 255]], [[0, 255], [1]], [[0]], [[255]], [[0], [1]]])
def test_two_classes_or_no_255_are_accepted(tmp_path: Path, values: list) -> None:
    check_label_files(masks(tmp_path, *values), 2)


def test_a_class_in_few_images_is_found(tmp_path: Path) -> None:
    records = masks(tmp_path, *[[0, 255]] * 3, [1], *[[0, 255]] * 4)
    check_label_files(records, 2, most=2)  # the first and the fifth


def test_one_class_without_255_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = masks(tmp_path, [1], [1])
    check_label_files(records, 2)
    assert "All label maps hold nothing but the class 1 " in caplog.text
    caplog.clear()
    check_label_files(masks(tmp_path, [0], [0]), 1)
    assert not caplog.text


def test_the_only_class_and_255_cause_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_label_files(masks(tmp_path, [0, 255]), 1)
    assert "hold only 0 and 255" in caplog.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_show_the_frame_of_an_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    labels = np.zeros((4, 6), np.uint8)
    record = {"file_name": f"{tmp_path}/i.png", "sem_seg_file_name": f"{tmp_path}/l.png"}
    Image.fromarray(image).save(record["file_name"], exif=exif)
    Image.fromarray(labels).save(record["sem_seg_file_name"])
    upright = read_image(record["file_name"], "RGB")
    read, _ = read_pair(record, "RGB", 1)
    assert np.array_equal(read, image if orientation >= 5 else upright)
    Image.fromarray(labels.T).save(record["sem_seg_file_name"])
    if orientation >= 5:
        read, _ = read_pair(record, "RGB", 1)
        assert np.array_equal(read, upright)
    else:
        with pytest.raises(ValueError, match="has 6 x 4 pixels"):
            read_pair(record, "RGB", 1)


def test_ignored_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_label_files(masks(tmp_path, [0, 1], [255]), 2)
    assert "1 of 2 label maps hold only the ignored label 255" in caplog.text


@pytest.mark.parametrize(
    ("values", "num_classes", "absent"),
    [
        ([[1, 2]], 3, "0"),  # counted from 1, and the last class is not used
        ([[0, 1, 255]], 3, "2"),
        ([[0, 1], [3]], 6, "2, 4, 5"),
        ([[0, 1], [2]], 3, None),
        ([[0], [0]], 2, None),  # a different warning reports this
        ([[255]], 2, None),
    ],
)
def test_classes_without_labels_cause_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: list, num_classes: int, absent: str
) -> None:
    records = masks(tmp_path, *values)
    check_label_files(records, num_classes)
    warned = f"No label map holds the classes {absent} " in caplog.text
    assert warned == (absent is not None) and ("No label map" in caplog.text) == warned
    if absent:
        assert "255" in caplog.text


def test_classes_may_be_missing_from_the_images_that_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_label_files(masks(tmp_path, [0, 1], [2]), 3, most=1)
    assert not caplog.text


def turned(folder: Path, name: str, orientation: int, size: tuple[int, int]) -> dict:
    """Write an image with an EXIF orientation, and labels of size (width, height)."""
    record = write(folder, name, np.resize(np.array([0, 1], np.uint8), size[::-1]), size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(record["file_name"], exif=exif)
    return record


@pytest.mark.parametrize(
    ("orientation", "size", "message"),
    [
        (1, (6, 4), ""),
        (6, (6, 4), "1 images are annotated as they are stored"),
        (6, (6, 6), "1 images have an EXIF orientation that does not change their size"),
        (3, (6, 4), "1 images have an EXIF orientation that does not change their size"),
    ],
)
def test_images_with_an_assumed_orientation_are_named(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    orientation: int,
    size: tuple[int, int],
    message: str,
) -> None:
    check_label_files([turned(tmp_path, "a", orientation, size)], 2)
    assert bool(caplog.text) == bool(message)
    assert message in caplog.text and ("a.jpg" in caplog.text) == bool(message)


def test_if_labels_ignore_one_orientation_the_others_must_be_clear(tmp_path: Path) -> None:
    records = [turned(tmp_path, "a", 6, (6, 4)), turned(tmp_path, "b", 3, (6, 4))]
    with pytest.raises(ValueError, match=r"EXIF orientation.* \(.*a\.jpg\) .*upright: .*b\.jpg"):
        check_label_files(records, 2)


@pytest.mark.parametrize("label", [None, "0", 0.0, [0], True])
def test_ignored_labels_are_integers(label: object) -> None:
    name = "labels that are ignored"
    MetadataCatalog.get(name).ignore_label = label
    try:
        with pytest.raises(ValueError, match="'labels that are ignored' is .* must be an integer"):
            ignore_label(name)
    finally:
        MetadataCatalog.remove(name)
