"""Reads, checks and augments one image with its semantic labels.

Shapes: C channels, H/W sides in pixels after augmentation and padding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils as utils, transforms as T
from torch import Tensor
from torch.nn import functional as F

from vit_adapter.data.aug_input import AugInput
from vit_adapter.data.checks import class_names
from vit_adapter.data.image_io import read_image, read_sizes
from vit_adapter.data.semantic.augmentation import without_colours
from vit_adapter.data.semantic.label_checks import MAX_CLASSES, ignore_label, read_pair
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL


class SemanticMapper:
    """Maps a data set record to the input of a semantic segmentor.

    Images that are smaller than the crop are padded at the right and the bottom. The original pads
    after normalisation, with 0. Detectron2's models normalise images themselves, so the padding
    here is the mean that the model subtracts, which gives exactly 0. Padded images are float32,
    and so are images with a number of channels; others stay uint8.

    Args:
        is_train: whether labels are read; evaluators read them on their own.
        augmentations: applied to image and labels.
        image_format: "RGB", "BGR" or a number of channels, as the model expects. With a number,
            distortions of colours are left out.
        dataset_names: registered name, or names of data sets with the same classes.
        pad_size: minimum (height, width) of what a training mapper returns; None for no padding.
        pixel_mean: the model's mean of each channel, in the units of the images.

    Raises:
        ValueError: padding without a mean, an unknown data set, more classes than fit into 8-bit
            labels, or data sets that ignore different labels.
    """

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        image_format: str | int,
        dataset_names: str | Sequence[str],
        pad_size: Sequence[int] | None = None,
        pixel_mean: Sequence[float] | None = None,
    ) -> None:
        if is_train and pad_size is not None and pixel_mean is None:
            raise ValueError("pad_size needs pixel_mean; give the model's.")
        self.is_train = is_train
        if isinstance(image_format, int):
            augmentations = without_colours(augmentations)
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.pad_size = tuple(pad_size) if is_train and pad_size is not None else None
        self.pixel_mean = None if self.pad_size is None else torch.tensor(list(pixel_mean))
        names = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
        name = names[0]
        self.num_classes = len(class_names(name, kind="stuff"))
        if self.num_classes > MAX_CLASSES:
            raise ValueError(
                f"The data set {name!r} has {self.num_classes} classes, but at most {MAX_CLASSES} "
                "are supported."
            )
        ignored = {name: ignore_label(name) for name in names}
        if len(set(ignored.values())) > 1:
            raise ValueError(
                f"Data sets that are read together must have the same ignore_label, got {ignored}."
            )
        self.ignore_label = ignored[name]

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read and augment one image and, for training, its labels.

        Args:
            dataset_dict: a record with ``file_name`` and, for training, ``sem_seg_file_name``; not
                changed.

        Returns:
            The record with ``image`` (C, H, W), uint8 or float32 as above; ``height`` and
            ``width`` of the image before augmentation; for training ``sem_seg`` (H, W) int64, where
            pixels that do not count are 255, whatever the data set's ``ignore_label`` is.

        Raises:
            FileNotFoundError: the image or its label map does not exist.
            ValueError: a file is broken, sizes differ, or labels belong to no class.
            SizeMismatchError: the size of the image differs from the record's.
        """
        record = dict(dataset_dict)
        image, sem_seg = self._read(record)
        utils.check_image_size(record, image)
        aug_input = AugInput(image, sem_seg=sem_seg)
        try:
            self.augmentations(aug_input)
        except (ValueError, AssertionError) as error:
            raise ValueError(
                f"Augmenting {record['file_name']} of {image.shape[1]} x {image.shape[0]} pixels "
                f"(width x height) failed: {error}"
            ) from error
        # Tensors travel between processes through shared memory; NumPy arrays would be pickled.
        pixels = torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        record["image"] = self._pad_image(pixels)
        if sem_seg is not None:
            labels = torch.from_numpy(aug_input.sem_seg.astype(np.int64))
            record["sem_seg"] = F.pad(labels, self._padding(labels), value=IGNORE_LABEL)
        return record

    def _read(self, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the image and, for training, checked labels (H, W) uint8 in the same frame."""
        label_file = record.get("sem_seg_file_name")
        if self.is_train:
            if label_file is None:
                raise ValueError(f"The record of {record['file_name']} has no 'sem_seg_file_name'.")
            return read_pair(
                record, self.image_format, self.num_classes, ignore_label=self.ignore_label
            )
        # As in training, the labels show whether the upright or the stored image is right.
        size = None
        if label_file is not None and os.path.isfile(label_file):
            _, size, _ = read_sizes(label_file)
        return read_image(record["file_name"], self.image_format, size=size), None

    def _padding(self, tensor: Tensor) -> tuple[int, int, int, int]:
        """Return how many pixels to add at the left, right, top and bottom of (..., H, W)."""
        if self.pad_size is None:
            return (0, 0, 0, 0)
        height, width = tensor.shape[-2:]
        bottom, right = max(0, self.pad_size[0] - height), max(0, self.pad_size[1] - width)
        return (0, right, 0, bottom)

    def _pad_image(self, image: Tensor) -> Tensor:
        padding = self._padding(image)
        if not any(padding):
            return image
        channels = zip(image.float(), self.pixel_mean.tolist(), strict=True)
        return torch.stack([F.pad(channel, padding, value=mean) for channel, mean in channels])
