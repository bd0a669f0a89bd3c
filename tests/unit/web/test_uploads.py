"""Uploaded images: what is read, and what is refused in words that do not show server folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_adapter.web import read_upload


def refused(path: Path | None, **limits) -> str:
    with pytest.raises(ValueError) as caught:
        read_upload(path, **{"max_megapixels": 1} | limits)
    message = str(caught.value)
    assert path is None or str(path.parent) not in message
    return message


def test_images_are_read_as_elsewhere(tmp_path: Path) -> None:
    deep = np.full((20, 30), 257 * 200, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    read = read_upload(tmp_path / "deep.png", max_megapixels=1)
    assert read.shape == (20, 30, 3) and read.dtype == np.uint8 and (read == 200).all()


@pytest.mark.parametrize("channels", [3, 5])
def test_channels_are_read_as_stored(tmp_path: Path, channels: int) -> None:
    stored = np.arange(4 * 6 * channels, dtype=np.uint16).reshape(4, 6, channels) * 300
    np.save(tmp_path / "a.npy", stored)
    read = read_upload(tmp_path / "a.npy", channels, max_megapixels=1)
    assert read.dtype == np.float32 and np.array_equal(read, stored)
    with pytest.raises(ValueError, match=r"^a.npy has shape .* the model takes 7 channels"):
        read_upload(tmp_path / "a.npy", 7, max_megapixels=1)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    text, cut, dot = (tmp_path / name for name in ("notes.jpg", "cut.png", "dot.png"))
    text.write_text("no image")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:-500])
    Image.new("RGB", (1, 1)).save(dot)
    assert refused(None) == "There is no image yet. Upload one first."
    assert refused(text) == "notes.jpg cannot be read: cannot identify image file 'notes.jpg'"
    assert refused(cut) == "cut.png cannot be read: image file is truncated"
    assert "dot.png has 1 x 1 pixels" in refused(dot)
    assert "gone.png does not exist" in refused(tmp_path / "gone.png")


def test_large_images_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (1500, 1000)).save(path)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    assert "large.png has 1500 x 1000 pixels (width x height), that is 1.5 megapixels" in refused(
        path
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)  # Pillow's own limit
    assert "large.png cannot be read: Image size (1500000 pixels) exceeds" in refused(
        path, max_megapixels=2
    )
