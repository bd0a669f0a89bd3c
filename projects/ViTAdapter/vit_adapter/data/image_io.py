"""Reads images and label pictures, whatever their pixel format, with errors that name the file.

Frame: arrays are (H, W, channels) or (H, W), upright after the EXIF orientation has been applied.
"""

from __future__ import annotations

import os
import struct

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image, ImageOps

MIN_SIDE = 2  # px; less is a placeholder or a broken export

# What Pillow raises for files that are cut off, damaged or of no known type.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)


def read_image(file_name: str | os.PathLike[str], image_format: str = "BGR") -> np.ndarray:
    """Read an image of any pixel format.

    Grey images get equal channels, palettes are looked up, transparency is dropped as Detectron2
    does, and 16-bit values 0..65535 are scaled to 0..255, where Pillow itself would cut them off.

    Args:
        file_name: path of the image.
        image_format: "BGR", "RGB", or another that Detectron2's ``read_image`` knows.

    Returns:
        (H, W, channels) uint8 in 0..255, for "YUV-BT.601" float.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, or is less than 2 pixels high or wide.
    """
    image = _open(file_name)
    if image.mode.startswith("I"):
        image = _reduce_to_8_bit(image, file_name)
    elif image.mode == "F":
        raise ValueError(
            f"{file_name} has floating-point pixels of unknown range. Save it with 8 bits."
        )
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow's advice for palettes with transparency
    try:
        return convert_PIL_to_numpy(image, image_format)
    except ValueError as error:
        raise ValueError(
            f"{file_name} has pixels of mode {image.mode}, which cannot be converted to "
            f"{image_format} ({error}). Save it as RGB."
        ) from error


def read_label_picture(file_name: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture of class labels.

    The values are taken as stored. In particular the entries of a palette are the labels, where
    converting to grey would replace them by the brightness of their colours.

    Returns:
        (H, W) uint8, or int32 for pictures of more than 8 bits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, is too small, or has several channels.
    """
    picture = _open(file_name)
    if picture.mode in ("L", "P", "1"):
        return np.asarray(picture, dtype=np.uint8)
    if picture.mode.startswith("I"):
        return np.asarray(picture, dtype=np.int32)
    raise ValueError(
        f"The label picture {file_name} has pixels of mode {picture.mode}, but labels need one "
        "channel of integers. Save it as grey or palette PNG with the class index as value."
    )


def _open(file_name: str | os.PathLike[str]) -> Image.Image:
    """Return the decoded, upright first frame."""
    if not os.path.isfile(file_name):
        raise FileNotFoundError(
            f"The image {file_name} does not exist. Check the image folder of the data set."
        )
    try:
        with Image.open(file_name) as image:
            image.load()
            upright = _upright(image)
    except _PILLOW_ERRORS as error:
        raise ValueError(
            f"The image {file_name} cannot be read: {error}. It may be truncated, or no image; "
            "replace it or remove it from the annotations."
        ) from error
    if min(upright.size) < MIN_SIDE:
        raise ValueError(
            f"The image {file_name} has {upright.width} x {upright.height} pixels (width x "
            f"height), but at least {MIN_SIDE} x {MIN_SIDE} are needed. Remove it from the data "
            "set."
        )
    return upright


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
    return Image.fromarray((pixels // 257).astype(np.uint8))  # 65535 = 255 * 257
