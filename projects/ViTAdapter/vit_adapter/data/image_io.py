"""Reads images and label maps of any pixel format, with errors that name the file.

Frame: arrays are (H, W, channels) or (H, W), and upright, that is with the EXIF orientation
applied, unless the size that the caller gives shows that the stored orientation is right.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.logger import log_first_n
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vit_adapter.data.channel_files import (
    channels_last,
    image_size,
    is_array_file,
    read_array,
    read_deep_colours,
    read_with_imageio,
)

MIN_SIDE = 2  # px; less is a placeholder or a broken export

_Size = tuple[int, int]  # (height, width)

# What Pillow raises for files that are truncated, damaged or of an unknown type.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
)
_MAX_WARNINGS = 10  # per process


def read_image(
    file_name: str | os.PathLike[str], image_format: str | int = "BGR", *, size: _Size | None = None
) -> np.ndarray:
    """Read an image of any pixel format.

    A number as the format stands for that many channels with the values that are stored, see
    :func:`read_stored`. Otherwise the image becomes one of 8 bits.

    Grey images get equal channels, palettes are looked up, and transparency is dropped as in
    Detectron2. 16-bit values 0..65535 are scaled to 0..255, where Pillow itself would clip them; an
    image whose values stay below 256 is treated as 8-bit. A warning names images that are dark
    after scaling.

    Args:
        file_name: path of the image.
        image_format: "BGR", "RGB", another format of Detectron2's ``read_image``, or a number of
            channels.
        size: (height, width) in the annotations. If the stored image has this size but the upright
            one does not, the annotations ignore the EXIF orientation, and so does this function.

    Returns:
        (H, W, channels) uint8 in 0..255, or float for "YUV-BT.601"; float32 for a number of
        channels.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it cannot be decoded, is less than 2 pixels high or wide, or has more pixels
            than Pillow's limit; or it does not have the number of channels, or has values that are
            not finite.
    """
    if isinstance(image_format, int):
        image = channels_last(read_stored(file_name, size=size), image_format, file_name)
        _check_sides(image.shape[1], image.shape[0], file_name)
        return image
    image, is_deep = _open(file_name, size)
    if image.mode == "F":
        raise ValueError(
            f"{file_name} has floating-point pixels of unknown range. Save it with 8 bits."
        )
    if image.mode.startswith("I"):
        image = _reduce_to_8_bit(image, file_name)
    elif is_deep:
        _warn_if_dark(image, file_name)
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow's advice for palettes with transparency
    try:
        return convert_PIL_to_numpy(image, image_format)
    except ValueError as error:
        raise ValueError(
            f"{file_name} has pixels of mode {image.mode}, which cannot be converted to "
            f"{image_format} ({error}). Save it as RGB."
        ) from error


def read_stored(file_name: str | os.PathLike[str], *, size: _Size | None = None) -> np.ndarray:
    """Read an image with all of its channels, and with the values that are stored.

    Arrays (``.npy``) and TIFF files have their own readers, other formats are read by Pillow, or by
    OpenCV if their colours have 16 bits, and by imageio if Pillow does not know them. A palette is
    looked up.

    Args:
        file_name: path of the image.
        size: as for :func:`read_image`; arrays and TIFF files have no EXIF orientation.

    Returns:
        The array as stored, see :func:`channels_last`.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_image`.
    """
    if is_array_file(file_name):
        return read_array(file_name)
    try:
        picture, is_deep = _open(file_name, size)
    except ValueError as error:
        return _read_unknown(file_name, error)
    if is_deep and not picture.mode.startswith("I"):
        return read_deep_colours(file_name)
    if picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    return np.asarray(picture)


def read_label_map(file_name: str | os.PathLike[str]) -> np.ndarray:
    """Read a map of class labels.

    The values are taken as stored. In particular the entries of a palette are the labels, where
    converting to grey would replace them by the brightness of their colours.

    Returns:
        (H, W) uint8, or int32 for maps of more than 8 bits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, is too small, or has several channels.
    """
    picture, _ = _open(file_name)
    if picture.mode in ("L", "P", "1"):
        return np.asarray(picture, dtype=np.uint8)
    if picture.mode.startswith("I"):
        return np.asarray(picture, dtype=np.int32)
    raise ValueError(
        f"The label map {file_name} has pixels of mode {picture.mode}, but labels need one "
        "channel of integers. Save it as grey or palette PNG with the class index as value."
    )


def read_segment_ids(file_name: str | os.PathLike[str]) -> np.ndarray:
    """Read a map of panoptic segment ids, which are stored as R + 256 G + 256^2 B.

    Returns:
        (H, W) int32, 0 to 256^3 - 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, is too small, or has no three channels of 8 bits.
    """
    picture, is_deep = _open(file_name)
    if is_deep or picture.mode not in ("RGB", "RGBA"):
        raise ValueError(
            f"The segment map {file_name} has {'16-bit ' if is_deep else ''}pixels of mode "
            f"{picture.mode}, but segment ids need RGB pixels of 8 bits. Save it as RGB PNG with "
            "the id R + 256 G + 256^2 B."
        )
    red, green, blue = np.moveaxis(np.asarray(picture)[..., :3].astype(np.int32), -1, 0)
    return red + 256 * green + 256**2 * blue


def colours_of_ids(ids: np.ndarray) -> np.ndarray:
    """Return segment ids (H, W) as the pixels (H, W, 3), uint8, that stand for them."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1).astype(np.uint8)


def read_sizes(
    file_name: str | os.PathLike[str], image_format: str | int = "BGR"
) -> tuple[_Size, _Size, bool]:
    """Read the size of an image or label map from its header.

    Args:
        file_name: path of the image.
        image_format: as for :func:`read_image`. A number of channels tells which axes of an array
            are its sides.

    Returns:
        (height, width) as stored, (height, width) when upright, and whether the image has an EXIF
        orientation. For a rotated TIFF image both are upright, because nothing else can be read.
        Arrays and other files that Pillow cannot open have no orientation.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, or has more pixels than Pillow's limit.
    """
    try:
        return _read_header(file_name)
    except ValueError as error:
        channels = image_format if isinstance(image_format, int) else None
        size = image_size(_read_unknown(file_name, error), file_name, channels)
        return size, size, False


def _read_unknown(file_name: str | os.PathLike[str], error: ValueError) -> np.ndarray:
    """Read a file of a format that Pillow does not know; otherwise raise its error again."""
    if not isinstance(error.__cause__, UnidentifiedImageError):
        raise error
    pixels = read_array(file_name) if is_array_file(file_name) else read_with_imageio(file_name)
    if pixels is None:
        raise error
    return pixels


def _read_header(file_name: str | os.PathLike[str]) -> tuple[_Size, _Size, bool]:
    with _naming(file_name), Image.open(file_name) as image:
        stored = image.size[::-1]
        try:
            # Not the method of PNG images, which decodes all pixels to find the EXIF data.
            orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        except _PILLOW_ERRORS:
            orientation = 1
        # Later versions of Pillow rotate TIFF images themselves, before they return the size.
        is_turned = image.format == "TIFF" and stored != (image.tag_v2[257], image.tag_v2[256])
    upright = stored[::-1] if orientation in (5, 6, 7, 8) and not is_turned else stored
    return stored, upright, orientation in range(2, 9)


def _open(file_name: str | os.PathLike[str], size: _Size | None = None) -> tuple[Image.Image, bool]:
    """Return the decoded first frame, and whether it is stored with 16 bits.

    Pillow reduces 16-bit colours to 8 bits. The frame is upright, unless only the stored one has
    the expected ``size``.
    """
    with _naming(file_name), Image.open(file_name) as image:
        is_deep = any(map(_is_deep, image.tile))
        image.load()
        picture = _upright(image)
        if size is not None and picture.size[::-1] != size and image.size[::-1] == size:
            picture = image.copy()
    width, height = picture.size
    _check_sides(width, height, file_name)
    return picture, is_deep


def _check_sides(width: int, height: int, file_name: str | os.PathLike[str]) -> None:
    if min(width, height) < MIN_SIDE:
        raise ValueError(
            f"The image {file_name} has {width} x {height} pixels (width x height), but at least "
            f"{MIN_SIDE} x {MIN_SIDE} are needed. Remove it from the data set."
        )


@contextmanager
def _naming(file_name: str | os.PathLike[str]) -> Iterator[None]:
    """Turn Pillow's exceptions into errors that name the file."""
    if not os.path.isfile(file_name):
        raise FileNotFoundError(
            f"The image {file_name} does not exist. Check the image folder of the data set."
        )
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"The image {file_name} is larger than Pillow's limit: {error}. Make it smaller or cut "
            "it into tiles; if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS, for example "
            "at the top of a config file."
        ) from error
    except _PILLOW_ERRORS as error:
        raise ValueError(
            f"The image {file_name} cannot be read: {error}. It may be truncated or not an image; "
            "replace it or remove it from the annotations."
        ) from error


def _is_deep(tile: tuple) -> bool:
    """Whether a part of a file has 16 bits.

    Pillow names its pixel layout, such as "RGB;16B", or in PPM files the highest value.
    """
    decoder, arguments = tile[0], tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    if decoder in ("ppm", "ppm_plain"):
        return len(arguments) > 1 and arguments[1] > 255
    return "16" in str(arguments[:1])


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; as in Detectron2, damaged EXIF data are ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except _PILLOW_ERRORS:
        return image.copy()


def _reduce_to_8_bit(image: Image.Image, file_name: str | os.PathLike[str]) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(
            f"{file_name} has values from {pixels.min()} to {pixels.max()}, outside the 16-bit "
            "range 0..65535. Save it with 8 or 16 bits."
        )
    if pixels.max() <= 255:
        return Image.fromarray(pixels.astype(np.uint8))
    reduced = Image.fromarray((pixels // 257).astype(np.uint8))  # 65535 = 255 * 257
    _warn_if_dark(reduced, file_name)
    return reduced


def _warn_if_dark(image: Image.Image, file_name: str | os.PathLike[str]) -> None:
    """Warn if most of a 16-bit range is unused, as with cameras that fill only 12 or 14 bits."""
    histogram = image.convert("L").histogram()
    if sum(histogram[64:]) <= 0.01 * sum(histogram):
        log_first_n(
            logging.WARNING,
            f"{file_name} has 16 bits, but 99 % of its pixels are below 1/4 of the range "
            "0..65535, so it will be dark or black. Convert such images to 8 bits, scaled from the "
            "range of their values, or train on the stored values with model.input_channels.",
            n=_MAX_WARNINGS,
            name=__name__,
        )
