"""Images of every pixel format are read; broken ones are named."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from detectron2.data import detection_utils
from detectron2.utils.logger import _LOG_COUNTER
from PIL import Image

from vit_adapter.data import read_image
from vit_adapter.data.image_io import (
    colours_of_ids,
    read_label_map,
    read_segment_ids,
    read_sizes,
)

RGB = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def _save(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_colour_images_keep_their_pixels(tmp_path, image_format):
    read = read_image(_save(tmp_path, Image.fromarray(RGB)), image_format)
    assert read.dtype == np.uint8
    assert np.array_equal(read, RGB if image_format == "RGB" else RGB[..., ::-1])


def test_grey_images_get_equal_channels(tmp_path):
    read = read_image(_save(tmp_path, Image.fromarray(GREY)), "RGB")
    assert np.array_equal(read, np.stack([GREY] * 3, -1))


def test_grey_images_with_transparency(tmp_path):
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY // 2)])
    assert np.array_equal(read_image(_save(tmp_path, image), "RGB"), np.stack([GREY] * 3, -1))


def test_binary_images(tmp_path):
    bits = GREY > 127
    read = read_image(_save(tmp_path, Image.fromarray(bits)), "RGB")
    assert np.array_equal(read, np.stack([bits * np.uint8(255)] * 3, -1))


def test_transparency_is_dropped(tmp_path):
    rgba = np.concatenate([RGB, GREY[..., None]], -1)
    assert np.array_equal(read_image(_save(tmp_path, Image.fromarray(rgba)), "RGB"), RGB)


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80"])
def test_palettes_are_looked_up(tmp_path, transparency, recwarn):
    image = Image.fromarray(GREY % 3).convert("P")
    image.putdata((GREY % 3).ravel().tolist())
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    options = {} if transparency is None else {"transparency": transparency}
    path = _save(tmp_path, image, **options)
    assert Image.open(path).mode == "P"
    palette = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], np.uint8)
    assert np.array_equal(read_image(path, "RGB"), palette[GREY % 3])
    assert not [w for w in recwarn if "ransparency" in str(w.message)]


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_values_are_scaled_and_not_clipped(tmp_path, extension):
    values = np.array([[0, 256, 257, 514], [1000, 32768, 65278, 65535]], np.uint16)
    path = _save(tmp_path, Image.fromarray(values), f"image.{extension}")
    expected = np.array([[0, 0, 1, 2], [3, 127, 254, 255]], np.uint8)
    assert np.array_equal(read_image(path, "RGB"), np.stack([expected] * 3, -1))


def _deep_png(path, values):
    """Write 16 bits for each of three channels, which Pillow cannot write."""

    def chunk(name, data):
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


@pytest.mark.parametrize(
    ("extension", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)]
)
@pytest.mark.parametrize("highest", [0, 1, 200, 255])
def test_16_bits_that_hold_8_keep_their_values(tmp_path, caplog, extension, dtype, highest):
    values = np.tile(np.arange(highest + 1, dtype=dtype), (3, 4))
    path = _save(tmp_path, Image.fromarray(values), f"image.{extension}")
    assert np.array_equal(read_image(path, "RGB"), np.stack([values] * 3, -1))
    assert not caplog.text


def _ramp(highest):
    return np.linspace(0, highest, 4096).astype(np.uint16).reshape(64, 64)


def _with_hot_pixel(values):
    values[5, 5] = 65535
    return values


@pytest.mark.parametrize(
    ("values", "is_dark"),
    [
        (_ramp(300), True),
        (_ramp(4095), True),
        (_with_hot_pixel(_ramp(200)), True),
        (_with_hot_pixel(_ramp(4095)), True),
        (_ramp(16383), True),
        (_ramp(20000), False),
        (_ramp(65535), False),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_images_that_become_dark_are_named(tmp_path, caplog, values, is_dark, channels):
    _LOG_COUNTER.clear()
    if channels == 1:
        path = _save(tmp_path, Image.fromarray(values), "deep.png")
    else:
        path = _deep_png(tmp_path / "deep.png", np.stack([values] * 3, -1))
    with caplog.at_level(logging.WARNING):
        read = read_image(path, "RGB")
    assert np.abs(read[..., 0] * 257.0 - values).max() <= 257
    assert ("deep.png has 16 bits" in caplog.text) == is_dark


def test_colours_of_16_bits_that_hold_8_are_named(tmp_path, caplog):
    _LOG_COUNTER.clear()
    read_image(_deep_png(tmp_path / "deep.png", np.full((4, 4, 3), 200)))
    assert "deep.png has 16 bits" in caplog.text


def test_32_bit_values_beyond_16_bit_and_floats_are_refused(tmp_path):
    path = _save(tmp_path, Image.fromarray(np.full((4, 4), 70000, np.int32)), "image.tif")
    with pytest.raises(ValueError, match="image.tif has values from 70000.*0..65535"):
        read_image(path)
    path = _save(tmp_path, Image.fromarray(np.ones((4, 4), np.float32)), "float.tif")
    with pytest.raises(ValueError, match="float.tif has floating-point pixels"):
        read_image(path)


def test_cmyk_is_converted(tmp_path):
    path = _save(tmp_path, Image.fromarray(RGB).convert("CMYK"), "image.tif")
    assert np.array_equal(read_image(path, "RGB"), np.asarray(Image.open(path).convert("RGB")))


def test_modes_that_cannot_be_converted_are_named(tmp_path):
    path = _save(tmp_path, Image.fromarray(RGB, "RGB").convert("RGB"), "image.png")
    with pytest.raises(ValueError, match="image.png has pixels of mode RGB.*NONSENSE"):
        read_image(path, "NONSENSE")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_in_detectron2(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path, Image.fromarray(RGB), "image.jpg", exif=exif, quality=95)
    assert np.array_equal(read_image(path, "BGR"), detection_utils.read_image(path, "BGR"))
    assert read_image(path).shape == ((7, 9, 3) if orientation < 5 else (9, 7, 3))


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_shows_whether_the_exif_orientation_is_ignored(tmp_path, orientation, extension):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path, Image.fromarray(RGB), f"image.{extension}", exif=exif)
    upright = (7, 9) if orientation < 5 else (9, 7)
    assert read_sizes(path) == ((7, 9), upright, orientation > 1)
    assert np.array_equal(read_image(path, size=upright), read_image(path))
    # If both frames have the same size, upright is assumed.
    expected = read_image(path) if orientation < 5 else np.asarray(Image.open(path))[..., ::-1]
    assert np.array_equal(read_image(path, size=(7, 9)), expected)
    assert read_image(path, size=(50, 50)).shape[:2] == upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_images_are_always_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path, Image.fromarray(RGB), "image.tif", exif=exif)
    upright = (7, 9) if orientation < 5 else (9, 7)
    stored, *others = read_sizes(path)
    assert others == [upright, orientation > 1]
    assert read_image(path).shape[:2] == read_image(path, size=stored).shape[:2] == upright


def test_images_beyond_the_limit_of_pillow_are_named_with_a_remedy(tmp_path, monkeypatch):
    path = _save(tmp_path, Image.new("1", (100, 90)), "scan.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    message = r"scan.png .*9000 pixels.*smaller.*MAX_IMAGE"
    for read in (read_image, read_label_map, read_sizes):
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert "truncated" not in str(error.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)
    assert read_image(path).shape == (90, 100, 3)


def test_missing_images_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.png does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_not_images_are_named(tmp_path, content):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match="broken.png cannot be read.*replace it or remove"):
        read_image(tmp_path / "broken.png")


@pytest.mark.parametrize("extension", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_truncated_and_damaged_images_raise_the_documented_errors(tmp_path, extension):
    buffer = io.BytesIO()
    formats = {"jpg": "JPEG", "tif": "TIFF"}
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, formats.get(extension, extension.upper()))
    content, path = buffer.getvalue(), tmp_path / f"broken.{extension}"
    rng, errors = np.random.default_rng(1), 0
    for length in np.linspace(0, len(content) * 0.9, 25, dtype=int):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="broken"):
            read_image(path)
    for _ in range(60):
        damaged = bytearray(content)
        for position in rng.integers(0, min(len(content), 300), 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_image(path)
        except ValueError as error:
            assert path.name in str(error)
            errors += 1
    assert errors


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_images_of_one_pixel_are_refused(tmp_path, size):
    path = _save(tmp_path, Image.new("RGB", size))
    with pytest.raises(ValueError, match=f"image.png has {size[0]} x {size[1]} pixels.*at least 2"):
        read_image(path)


def test_images_of_no_pixels_are_refused(tmp_path):
    header = b"P6\n0 5\n255\n"
    (tmp_path / "empty.ppm").write_bytes(header)
    with pytest.raises(ValueError, match="empty.ppm"):
        read_image(tmp_path / "empty.ppm")


def test_two_pixels_are_enough(tmp_path):
    assert read_image(_save(tmp_path, Image.new("RGB", (2, 2)))).shape == (2, 2, 3)


def test_label_maps_keep_their_values(tmp_path):
    labels = GREY % 5
    assert np.array_equal(read_label_map(_save(tmp_path, Image.fromarray(labels))), labels)
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([200, 10, 10, 20, 150, 30, 1, 2, 3, 9, 9, 9, 250, 0, 250])
    assert np.array_equal(read_label_map(_save(tmp_path, palette)), labels)
    wide = labels.astype(np.uint16) * 1000
    assert np.array_equal(read_label_map(_save(tmp_path, Image.fromarray(wide))), wide)


def test_label_maps_in_colour_are_refused(tmp_path):
    with pytest.raises(ValueError, match="label map .*image.png has pixels of mode RGB"):
        read_label_map(_save(tmp_path, Image.fromarray(RGB)))


def test_segment_ids_are_stored_as_colours(tmp_path):
    ids = np.array([[0, 1, 255], [256, 65536, 256**3 - 1]])
    pixels = colours_of_ids(ids)
    assert pixels[1].tolist() == [[0, 1, 0], [0, 0, 1], [255, 255, 255]]
    path = _save(tmp_path, Image.fromarray(pixels))
    assert read_segment_ids(path).dtype == np.int32
    assert np.array_equal(read_segment_ids(path), ids)
    with_alpha = np.concatenate([pixels, np.zeros((2, 3, 1), np.uint8)], -1)
    path = _save(tmp_path, Image.fromarray(with_alpha), "alpha.png")
    assert np.array_equal(read_segment_ids(path), ids)


def test_segment_ids_in_one_channel_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"image.png has pixels of mode L, but segment ids need"):
        read_segment_ids(_save(tmp_path, Image.fromarray(GREY)))
