"""Images with any number of channels, read as they are stored."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vit_adapter.data import read_image
from vit_adapter.data.channel_files import channels_last
from vit_adapter.data.image_io import read_sizes, read_stored

H, W = 6, 9


def pixels(channels: int, dtype: str = "uint16") -> np.ndarray:
    """(H, W, channels), over the whole range of the type."""
    values = np.random.default_rng(0).random((H, W, channels))
    return (values * (np.iinfo(dtype).max if dtype[0] in "iu" else 1)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_arrays_have_their_channels_first_or_last(tmp_path: Path, channels: int, dtype: str):
    image = pixels(channels, dtype)
    np.save(tmp_path / "last.npy", image)
    np.save(tmp_path / "first.npy", np.moveaxis(image, 2, 0))
    for name in ("last.npy", "first.npy"):
        read = read_image(tmp_path / name, channels)
        assert read.dtype == np.float32 and read.flags.c_contiguous
        assert read.flags.owndata and read.flags.writeable and type(read) is np.ndarray
        assert np.array_equal(read, image.astype(np.float32))
        assert read_sizes(tmp_path / name) == ((H, W), (H, W), False)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("layout", ["planes", "pixels", "pages"])
def test_tiff_files_of_every_layout(tmp_path: Path, layout: str, dtype: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    image, file = pixels(5, dtype), tmp_path / "a.tif"
    if layout == "pixels":
        tifffile.imwrite(file, image, photometric="minisblack", planarconfig="contig")
    elif layout == "planes":
        planes = np.moveaxis(image, 2, 0)
        tifffile.imwrite(file, planes, photometric="minisblack", planarconfig="separate")
    else:
        tifffile.imwrite(file, np.moveaxis(image, 2, 0), photometric="minisblack")
    assert np.array_equal(read_image(file, 5), image.astype(np.float32))
    assert read_sizes(file)[0] == (H, W)


@pytest.mark.parametrize("channels_axis", [0, 2])
def test_more_channels_than_rows(tmp_path: Path, channels_axis: int) -> None:
    image = np.moveaxis(pixels(40), 2, channels_axis)
    np.save(tmp_path / "a.npy", image)
    assert read_sizes(tmp_path / "a.npy", 40) == ((H, W), (H, W), False)
    assert read_sizes(tmp_path / "a.npy", 3)[0] != (H, W)  # the shorter end has the channels


def test_tiff_files_of_more_channels_than_rows(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    options = dict(photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "a.tif", pixels(40), **options)
    assert read_sizes(tmp_path / "a.tif", 40)[0] == (H, W)


def test_compressed_tiff_files_need_no_more_libraries(tmp_path: Path) -> None:
    grey, colours = pixels(1)[..., 0], pixels(3)
    cv2.imwrite(str(tmp_path / "grey.tif"), grey)  # OpenCV compresses by LZW
    cv2.imwrite(str(tmp_path / "rgb.tif"), colours[..., ::-1])
    assert np.array_equal(read_image(tmp_path / "grey.tif", 1)[..., 0], grey)
    assert np.array_equal(read_image(tmp_path / "rgb.tif", 3), colours)


def test_png_files_of_16_bits_keep_their_values(tmp_path: Path) -> None:
    for channels in (1, 3, 4):
        image = pixels(channels)
        stored = image[..., [2, 1, 0, 3][:channels]] if channels > 1 else image
        cv2.imwrite(str(tmp_path / "a.png"), stored)
        assert np.array_equal(read_image(tmp_path / "a.png", channels), image)


@pytest.mark.parametrize("highest", [1000, 65535])
def test_ppm_files_of_16_bits_keep_their_values(tmp_path: Path, highest: int) -> None:
    image = pixels(3) // 66
    header = f"P6\n{W} {H}\n{highest}\n".encode()
    (tmp_path / "a.ppm").write_bytes(header + image.astype(">u2").tobytes())
    assert np.array_equal(read_image(tmp_path / "a.ppm", 3), image)


def test_8_bit_images_have_the_channels_of_their_file(tmp_path: Path) -> None:
    image = pixels(4, "uint8")
    for channels, mode in ((1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")):
        picture = image[..., 0] if channels == 1 else image[..., :channels]
        Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / f"{mode}.png")
        read = read_image(tmp_path / f"{mode}.png", channels)
        assert np.array_equal(read, picture.reshape(H, W, channels))
    palette = Image.fromarray(image[..., :3].copy()).quantize(4)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png", 3), palette.convert("RGB"))


def test_photos_are_upright(tmp_path: Path) -> None:
    image = pixels(3, "uint8")
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png", 3), np.rot90(image, -1))
    assert np.array_equal(read_image(tmp_path / "a.png", 3, size=(H, W)), image)


def test_other_formats_are_read_by_imageio(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v3")
    image = pixels(3, "float32")
    imageio.imwrite(tmp_path / "a.bsdf", image)
    assert np.array_equal(read_image(tmp_path / "a.bsdf", 3), image)
    assert read_sizes(tmp_path / "a.bsdf")[0] == (H, W)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((H, W, 4), r"\(5, H, W\) or \(H, W, 5\)"),
        ((H, W), r"\(5, H, W\) or \(H, W, 5\)"),
        ((2, H, W, 5), r"\(5, H, W\) or \(H, W, 5\)"),
    ],
)
def test_another_number_of_channels_is_described(tmp_path: Path, shape, expected) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint16))
    text = rf"a\.npy has shape \({shape[0]}, {shape[1]}.* and type uint16, expected {expected}"
    with pytest.raises(ValueError, match=text):
        read_image(tmp_path / "a.npy", 5)


def test_colours_are_not_taken_for_one_channel(tmp_path: Path) -> None:
    Image.fromarray(pixels(3, "uint8")).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png has shape .* expected \(H, W\) of real numbers"):
        read_image(tmp_path / "a.png", 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_counted(tmp_path: Path, value: float) -> None:
    image = pixels(2, "float64")
    image[1, 2:4, 0] = value
    np.save(tmp_path / "a.npy", image)
    with pytest.raises(ValueError, match=r"a\.npy has 2 values that are NaN or infinite"):
        read_image(tmp_path / "a.npy", 2)


@pytest.mark.parametrize("dtype", ["complex64", "bool", "U3"])
def test_other_types_than_numbers_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="the image has shape .* expected .* of real numbers"):
        channels_last(np.zeros((H, W, 2), dtype), 2, "the image")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("a.npy", "a.tif", "a.png", "a.xyz"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            read_stored(tmp_path / name)
        with pytest.raises(FileNotFoundError, match=rf"b{name} does not exist"):
            read_stored(tmp_path / f"b{name}")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        read_image(tmp_path / "a.npy", 1)


def test_placeholders_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 2)))
    with pytest.raises(ValueError, match=r"a\.npy has .* expected|8 x 1 pixels"):
        read_image(tmp_path / "a.npy", 2)
