"""Images that visitors of the page upload."""

import os
from pathlib import Path

import numpy as np

from vit_adapter.data.image_io import read_image, read_sizes

__all__ = ["read_upload"]


def read_upload(
    path: str | os.PathLike[str] | None, image_format: str | int = "BGR", *, max_megapixels: float
) -> np.ndarray:
    """Read an uploaded image. Messages show its name, and not the folder on the server.

    Args:
        path: the file; None if nothing was uploaded.
        image_format: "BGR", or the number of channels of an image that is read as stored.
        max_megapixels: larger images are refused before they are decoded.

    Returns:
        (H, W, 3) uint8, BGR; (H, W, C) float32 for C channels.

    Raises:
        ValueError: there is no image, it cannot be read, or it is too large.
    """
    if not path:
        raise ValueError("There is no image yet. Upload one first.")
    name = Path(path).name
    try:
        (height, width), _, _ = read_sizes(path)
        if height * width > max_megapixels * 1e6:
            raise ValueError(
                f"{name} has {width} x {height} pixels (width x height), that is "
                f"{height * width / 1e6:.1f} megapixels. This page takes up to {max_megapixels:g}. "
                "Make the image smaller, or start the page with a larger --max-megapixels."
            )
        return read_image(path, image_format)
    except (ValueError, OSError) as error:
        text = str(error)
        if error.__cause__ is not None:  # the advice in the text is for data sets
            text = f"{name} cannot be read: {error.__cause__}"
        raise ValueError(text.replace(str(path), name)) from error
