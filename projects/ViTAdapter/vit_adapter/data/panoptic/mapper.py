"""Reads and augments one image with its panoptic segments.

Shapes: C channels, H/W sides in pixels after augmentation, T targets of one image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils as utils, transforms as T
from detectron2.structures import BitMasks, Instances

from vit_adapter.data.aug_input import AugInput
from vit_adapter.data.image_io import colours_of_ids, read_image, read_segment_ids, read_sizes
from vit_adapter.data.panoptic.segments import Segment, only_on_one_side, segment_indexes


class PanopticMapper:
    """Maps a data set record to the input of a panoptic model.

    Each segment is a target: an object, or all stuff of one class in the image. Crowds and pixels
    without a label belong to no target. Segments that a crop leaves without a pixel are dropped.

    Args:
        is_train: whether segments are read; evaluators read them on their own.
        augmentations: applied to the image and the segment map.
        image_format: "RGB", "BGR" or a number of channels, as the model expects.
    """

    def __init__(
        self, *, is_train: bool, augmentations: Sequence[T.Augmentation], image_format: str | int
    ) -> None:
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Read and augment one image and, for training, its segments.

        Args:
            dataset_dict: a record with ``file_name`` and, for training, ``pan_seg_file_name`` and
                ``segments_info``; not changed.

        Returns:
            The record with ``image`` (C, H, W), uint8 or, for a number of channels, float32;
            ``height`` and ``width`` of the image before augmentation; for training ``instances``
            with ``gt_classes`` (T,) and ``gt_masks`` (``BitMasks``) in place of the segments.

        Raises:
            FileNotFoundError: the image or its segment map does not exist.
            ValueError: a file is broken, sizes differ, or the segment map has ids that the record
                does not list; the message names the files.
            SizeMismatchError: the size of the image differs from the record's.
        """
        record = dict(dataset_dict)
        indexes = _read_indexes(record) if self.is_train else None
        image = read_image(record["file_name"], self.image_format, size=_map_size(record, indexes))
        utils.check_image_size(record, image)
        if indexes is not None:
            _check_same_size(image, indexes, record)
        aug_input = AugInput(image)
        try:
            transforms = self.augmentations(aug_input)
        except (ValueError, AssertionError) as error:
            raise ValueError(
                f"Augmenting {record['file_name']} of {image.shape[1]} x {image.shape[0]} pixels "
                f"(width x height) failed: {error}"
            ) from error
        # Tensors travel between processes through shared memory; NumPy arrays would be pickled.
        record["image"] = torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        if indexes is not None:
            record.pop("sem_seg_file_name", None)
            del record["pan_seg_file_name"]
            # Every augmentation can resize 8-bit pixels, where it may not know larger integers.
            picture = transforms.apply_segmentation(colours_of_ids(indexes))
            record["instances"] = _targets(picture, record.pop("segments_info"))
        return record


def _read_indexes(record: Mapping[str, Any]) -> np.ndarray:
    """Return, for each pixel (H, W), the index of its segment plus 1, or 0 for none.

    Unlike ids, these small numbers never equal the value of a padding.
    """
    if "pan_seg_file_name" not in record:
        raise ValueError(f"The record of {record['file_name']} has no 'pan_seg_file_name'.")
    map_file, segments = record["pan_seg_file_name"], record["segments_info"]
    ids = read_segment_ids(map_file)
    indexes = segment_indexes(ids, segments)
    unlisted, _ = only_on_one_side(ids, indexes, segments)
    if unlisted:
        raise ValueError(
            f"The segment map {map_file} has the ids {unlisted[:8]}, which the 'segments_info' of "
            f"{record['file_name']} does not list. Add them there, or set their pixels to 0."
        )
    return np.where(indexes == len(segments), 0, indexes + 1)


def _map_size(record: Mapping[str, Any], indexes: np.ndarray | None) -> tuple[int, int] | None:
    """(height, width) of the segment map, which shows whether the upright image is right."""
    if indexes is not None:
        return indexes.shape
    map_file = record.get("pan_seg_file_name")
    return read_sizes(map_file)[1] if map_file is not None and os.path.isfile(map_file) else None


def _check_same_size(image: np.ndarray, indexes: np.ndarray, record: Mapping[str, Any]) -> None:
    if image.shape[:2] != indexes.shape:
        sizes = [f"{shape[1]} x {shape[0]}" for shape in (image.shape, indexes.shape)]
        raise ValueError(
            f"The image {record['file_name']} has {sizes[0]} pixels (width x height), but its "
            f"segment map {record['pan_seg_file_name']} has {sizes[1]}. They must have the same "
            "size, after any EXIF orientation is applied."
        )


def _targets(picture: np.ndarray, segments: Sequence[Segment]) -> Instances:
    """Return the targets in an augmented picture (H, W, 3) of indexes plus 1."""
    red, green, blue = np.moveaxis(picture.astype(np.int32), -1, 0)
    numbers = red + 256 * green + 256**2 * blue
    numbers[numbers > len(segments)] = 0  # padding
    areas = np.bincount(numbers.ravel(), minlength=len(segments) + 1)
    kept = [
        (number, segment["category_id"])
        for number, segment in enumerate(segments, start=1)
        if areas[number] and not segment.get("iscrowd")
    ]
    wanted = torch.tensor([number for number, _ in kept], dtype=torch.int32)
    instances = Instances(tuple(numbers.shape))
    instances.gt_classes = torch.tensor([label for _, label in kept], dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.from_numpy(numbers)[None] == wanted[:, None, None])
    return instances
