"""The confusion matrix: which side is which, what is drawn, and what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_adapter.evaluation import confusion_matrix
from vit_adapter.evaluation.confusion_matrix import (
    draw_confusion_matrix,
    row_percent,
    write_confusion_matrix,
)

# Rows are labels: half of the road is predicted as sky, and no pixel is labelled as a tree.
COUNTS = np.array([[5, 5, 0], [0, 7, 0], [0, 0, 0]])
NAMES = ["road", "sky", "$$"]


def test_rows_are_normalised() -> None:
    expected = [[50, 50, 0], [0, 100, 0], [np.nan] * 3]
    np.testing.assert_array_equal(row_percent(COUNTS), expected)


def test_classes_without_pixels_are_grey() -> None:
    def grey_pixels(counts: np.ndarray) -> int:
        pixels = np.asarray(draw_confusion_matrix(counts, NAMES))
        return (pixels == [211, 211, 211]).all(axis=2).sum()

    one_row = grey_pixels(COUNTS)
    assert one_row > 10_000
    assert grey_pixels(0 * COUNTS) == pytest.approx(3 * one_row, rel=0.05)
    assert grey_pixels(COUNTS + 1) < 100


@pytest.mark.parametrize("num_classes", [1, 150])
def test_any_number_of_classes(num_classes: int) -> None:
    counts = np.eye(num_classes, dtype=np.int64)
    names = [f"class {index}" for index in range(num_classes)]
    picture = draw_confusion_matrix(counts, names)
    assert 400 <= max(picture.size) <= 2500


def test_written_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "inference"
    picture = write_confusion_matrix(COUNTS, NAMES, folder)
    assert json.loads((folder / "confusion_matrix.json").read_text()) == {
        "classes": NAMES,
        "pixels": [[5, 5, 0], [0, 7, 0], [0, 0, 0]],
    }
    assert np.array_equal(np.asarray(Image.open(folder / "confusion_matrix.png")), picture)
    assert len(list(folder.iterdir())) == 2


def test_a_file_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unwritable:
        def save(self, stream: object, format: str) -> None:
            stream.write(b"half")
            raise OSError("no space left")

    monkeypatch.setattr(confusion_matrix, "draw_confusion_matrix", lambda *_: Unwritable())
    with pytest.raises(OSError, match="no space left"):
        write_confusion_matrix(COUNTS, NAMES, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["confusion_matrix.json"]
