"""A fixed number of augmented views for each training image, drawn from seeds.

The same view of the same image is the same in every epoch, run and process, as long as the image
and the augmentations stay the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vit_adapter.data.records import find_landscape
from vit_adapter.data.seeds import derive_seed, seeded

_Record = Mapping[str, Any]
_VIEW = "view"


class ImageViews(Dataset):
    """Lists each record of a data set once for each of its views.

    A sampler that shuffles it shows every view of every image once before it repeats any.

    Args:
        dataset: records in Detectron2's format, with a length.
        num_views: views of each image, at least 1.
    """

    def __init__(self, dataset: Dataset, num_views: int) -> None:
        self._dataset = dataset
        self.num_images = len(dataset)
        self.num_views = num_views

    def __len__(self) -> int:
        return self.num_images * self.num_views

    @property
    def landscape(self) -> np.ndarray:
        """See :func:`vit_adapter.data.records.find_landscape`."""
        return np.tile(find_landscape(self._dataset), self.num_views)

    def __getitem__(self, index: int) -> dict[str, Any]:
        view, image = divmod(index, self.num_images)
        return {**self._dataset[image], _VIEW: view}


class ViewMapper:
    """Maps a record of :class:`ImageViews` with random numbers that only the view determines.

    The seed follows from the view's number and from the name of the image and of its folder, so
    that a data set may be moved. The state of all random generators is restored.

    Args:
        mapper: maps a record to the input of a model, with at least "image".
    """

    def __init__(self, mapper: Callable[[_Record], dict[str, Any] | None]) -> None:
        self._mapper = mapper

    def __call__(self, record: _Record) -> dict[str, Any] | None:
        """Return what the mapper returns, with "view_key": the hash of the image's pixels."""
        record = dict(record)
        name = "/".join(Path(record["file_name"]).parts[-2:])
        with seeded(derive_seed(name, record.pop(_VIEW))):
            result = self._mapper(record)
        if result is not None:
            result["view_key"] = _hash_image(result["image"])
        return result


def _hash_image(image: Tensor) -> str:
    digest = hashlib.sha256(f"{image.dtype} {tuple(image.shape)}\n".encode())
    digest.update(image.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
