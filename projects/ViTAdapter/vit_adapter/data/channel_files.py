"""Images with any number of channels and any type of number, as arrays and TIFF files hold them.

Shapes: C channels, H/W image sides in pixels.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

__all__ = [
    "channels_last",
    "image_size",
    "is_array_file",
    "read_array",
    "read_deep_colours",
    "read_with_imageio",
]

_ARRAY = ".npy"
_TIFF = (".tif", ".tiff")


def is_array_file(file_name: str | os.PathLike[str]) -> bool:
    """Whether a file is read by :func:`read_array` when its values are wanted as stored."""
    return Path(file_name).suffix.lower() in (_ARRAY, *_TIFF)


def read_array(file_name: str | os.PathLike[str]) -> np.ndarray:
    """Read a ``.npy`` or TIFF file as stored; the pages of a TIFF file are its channels.

    Returns:
        The array with all of its axes, in any order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it cannot be read; the message names it.
    """
    if not os.path.isfile(file_name):
        raise FileNotFoundError(
            f"The image {file_name} does not exist. Check the image folder of the data set."
        )
    if Path(file_name).suffix.lower() in _TIFF:
        return _read_tiff(file_name)
    try:
        return np.load(file_name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"The image {file_name} cannot be read: {error}. Save it with numpy.save as an array "
            "of numbers."
        ) from error


def channels_last(pixels: np.ndarray, channels: int, source: str | os.PathLike[str]) -> np.ndarray:
    """Check an image and return it as float32 with its channels last.

    Args:
        pixels: (C, H, W), (H, W, C) or, with one channel, (H, W), of any real numbers. Further
            axes of length 1 are dropped. If both ends fit, the channels are last.
        channels: the number C that is expected.
        source: the file, or what else the messages call the image.

    Returns:
        (H, W, C) float32.

    Raises:
        ValueError: it has another shape or type, or values that are not finite.
    """
    image = pixels if pixels.ndim == 2 else np.squeeze(pixels)
    if channels == 1 and image.ndim == 2:
        image = image[..., None]
    elif image.ndim == 3 and image.shape[2] != channels and image.shape[0] == channels:
        image = np.moveaxis(image, 0, 2)
    is_number = np.issubdtype(image.dtype, np.number) and not np.iscomplexobj(image)
    if image.ndim != 3 or image.shape[2] != channels or not is_number:
        expected = "(H, W)" if channels == 1 else f"({channels}, H, W) or (H, W, {channels})"
        raise ValueError(
            f"{source} has shape {pixels.shape} and type {pixels.dtype}, expected {expected} of "
            f"real numbers, because the model takes {channels} channels. Convert the image, or set "
            "model.input_channels to the number of channels that all images have."
        )
    with np.errstate(over="ignore"):  # refused below
        image = np.array(image, dtype=np.float32, order="C")  # a copy, as files may be mapped
    wrong = image.size - np.count_nonzero(np.isfinite(image))
    if wrong:
        raise ValueError(
            f"{source} has {wrong} values that are NaN or infinite as float32 (shape "
            f"{pixels.shape}, type {pixels.dtype}). Replace them, for example by the mean of their "
            "channel."
        )
    return image


def image_size(
    pixels: np.ndarray, source: str | os.PathLike[str], channels: int | None = None
) -> tuple[int, int]:
    """Return (height, width) of an image.

    Args:
        pixels: as for :func:`channels_last`.
        source: what the message calls the image.
        channels: the number that is expected. If it is not known, or is the length of neither the
            first nor the last axis, the channels are taken to be on the shorter of the two.

    Raises:
        ValueError: it has another number of axes.
    """
    shape = [side for side in pixels.shape if side != 1]
    if len(shape) not in (2, 3):
        raise ValueError(
            f"The image {source} has shape {pixels.shape} and type {pixels.dtype}, expected "
            "(H, W), or three axes with the channels first or last."
        )
    if len(shape) == 3:
        is_last = shape[2] == channels or (shape[0] != channels and shape[2] <= shape[0])
        shape = shape[:2] if is_last else shape[1:]
    return tuple(shape)


def read_with_imageio(file_name: str | os.PathLike[str]) -> np.ndarray | None:
    """Read an image of a format that Pillow does not know; None if imageio cannot do it either."""
    imageio = _find("imageio.v3")
    try:
        return None if imageio is None else np.asarray(imageio.imread(file_name))
    except Exception:  # its plugins raise anything
        return None


def _read_tiff(file_name: str | os.PathLike[str]) -> np.ndarray:
    """Read with tifffile, or with OpenCV what it cannot decompress."""
    tifffile = _find("tifffile")
    problem = "tifffile is not installed (pip install tifffile)"
    if tifffile is not None:
        try:
            return tifffile.imread(file_name)
        except Exception as error:  # damaged files raise anything
            problem = str(error)
    is_read, pages = cv2.imreadmulti(os.fspath(file_name), flags=cv2.IMREAD_UNCHANGED)
    if not is_read or not pages or len({(page.shape, page.dtype) for page in pages}) > 1:
        raise ValueError(
            f"The image {file_name} cannot be read as TIFF: {problem}. It may be damaged; "
            "otherwise save it without compression."
        )
    return np.squeeze(np.stack([_rgb(page) for page in pages]))


def _rgb(page: np.ndarray) -> np.ndarray:
    """Undo OpenCV's order of colours, BGR or BGRA."""
    if page.ndim == 3 and page.shape[2] in (3, 4):
        return page[..., [2, 1, 0, 3][: page.shape[2]]]
    return page


def read_deep_colours(file_name: str | os.PathLike[str]) -> np.ndarray:
    """Read colours of 16 bits, (H, W, 3) RGB or (H, W, 4) RGBA, which Pillow reduces to 8 bits."""
    pixels = cv2.imread(os.fspath(file_name), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"The image {file_name} cannot be read by OpenCV. Replace it.")
    return _rgb(pixels)


def _find(module: str) -> ModuleType | None:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
