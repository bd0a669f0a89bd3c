"""Image files of a COCO data set: missing, broken, of a different size, rotated."""

import logging
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from vit_adapter.data.instances import coco_images
from vit_adapter.data.instances.coco_images import check_image_files
from vit_adapter.data.instances.coco_problems import Problems


def _save(path, size=(30, 20), orientation=None):
    """Write an image; ``size`` is (width, height)."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path, exif=exif)


def _check(root, *names, size=(30, 20)):
    problems = Problems()
    images = [{"file_name": name, "width": size[0], "height": size[1]} for name in names]
    check_image_files(images, root, problems)
    return problems.describe()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("sub\\c.png", "'file_name' has backslashes.* write '/': sub.c.png"),
        ("https://host/a.png", "'file_name' is a web address"),
        ("/data/a.png", "'file_name' is an absolute path"),
        ("images/a.png", "but found in .*; correct the image folder: images/a.png"),
        ("other/a.png", "but found there without the folders in 'file_name'"),
        ("A.PNG", "but found there with different capitals"),
        ("sub/B.png", "but found there with different capitals"),
        ("b%20c%C3%A9.png", "but found there with .* percent codes"),
        (" a.png ", "but found there with .* spaces at the ends"),
        (unicodedata.normalize("NFD", "b cé.png"), r"but found there with .* accents \(Unicode"),
        ("a.jpg", "but found there with another file extension"),
        ("data:image/png;base64," + 400 * "A", "'file_name' is not a name.*: data:image.{190}$"),
        (400 * "A", "correct the image folder: A{200}$"),
        ("c.png", "correct the image folder: c.png"),
    ],
)
def test_why_a_file_is_not_found(tmp_path, name, advice):
    for existing in ("a.png", "sub/b.png", "b cé.png"):
        _save(tmp_path / "images" / existing)
    root = tmp_path / "images"
    assert _check(root, "a.png", "./a.png", "../images/sub/b.png", str(root / "a.png")) == ""
    found = _check(root, "a.png", name)
    assert re.search(f"^- 1 x image file missing in .*{advice}", found)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert "1 x image file that cannot be used: The image" in _check(tmp_path, "a.png")


def test_other_sizes_are_named(tmp_path):
    _save(tmp_path / "a.jpg")
    _save(tmp_path / "b.jpg", orientation=6)
    assert "a.jpg (20 and 30, not 30 and 20)" in _check(tmp_path, "a.jpg", size=(20, 30))
    assert "b.jpg (30 and 20, not 5 and 5)" in _check(tmp_path, "b.jpg", size=(5, 5))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_shows_the_frame_of_the_annotations(tmp_path, orientation, caplog):
    _save(tmp_path / "a.jpg", orientation=orientation)
    for size in ((30, 20), (20, 30)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            problems = _check(tmp_path, "a.jpg", size=size)
        assert bool(problems) == (orientation < 5 and size == (20, 30))
        as_stored = "annotated as they are stored" in caplog.text
        assert as_stored == (orientation >= 5 and size == (30, 20))
        unclear = "does not change their size" in caplog.text
        assert unclear == (1 < orientation < 5 and size == (30, 20))


def test_if_one_image_ignores_exif_the_others_must_be_clear(tmp_path):
    for name, orientation in {"a": 6, "b": None, "c": 3, "d": 8}.items():
        _save(tmp_path / f"{name}.jpg", orientation=orientation)
    assert _check(tmp_path, "a.jpg", "b.jpg", "d.jpg") == ""
    found = _check(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    assert "1 x image whose EXIF orientation does not change its size" in found
    assert "(a.jpg) are annotated as if they had none; store all images upright: c.jpg" in found


def test_only_some_of_many_files_are_opened(tmp_path, monkeypatch):
    names = [f"{number}.png" for number in range(12)]
    for name in names:
        _save(tmp_path / name)
    opened = []
    sizes = ((20, 30), (20, 30), False)
    monkeypatch.setattr(
        coco_images, "read_sizes", lambda path, image_format: opened.append(path.name) or sizes
    )
    monkeypatch.setattr(coco_images, "_NUM_OPENED", 4)
    assert _check(tmp_path, *names) == ""
    assert opened == ["0.png", "3.png", "6.png", "9.png"]
