"""Passing pictures of an evaluation on to TensorBoard and other writers of a training run."""

import numpy as np
from detectron2.utils.events import EventStorage, get_event_storage
from PIL import Image

__all__ = ["current_storage", "show"]


def current_storage() -> EventStorage | None:
    """Return the storage of the training run that evaluates; None outside of training."""
    try:
        return get_event_storage()
    except AssertionError:
        return None


def show(name: str, picture: Image.Image) -> None:
    """Give an RGB picture to the writers of the training run, if there is one."""
    storage = current_storage()
    if storage is not None:
        storage.put_image(name, np.asarray(picture.convert("RGB")).transpose(2, 0, 1))
