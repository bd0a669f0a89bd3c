"""Detectron2's ``DatasetMapper`` with errors that name the file and the annotation.

In a data loader's worker process a bare "KeyError: 'bbox'" does not say which of 100,000
annotations is broken. The mapper also reads images of every pixel format (``image_io``), and keeps
up to a pixel of boxes and polygons with integer coordinates that Detectron2 loses by truncation
when it resizes them.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper, detection_utils as utils, transforms as T
from detectron2.structures import BoxMode
from fvcore.transforms.transform import Transform

from vit_adapter.data.aug_input import AugInput
from vit_adapter.data.image_io import read_image, read_label_map
from vit_adapter.data.instances.coco_geometry import run_length_problem
from vit_adapter.data.instances.coco_values import flag
from vit_adapter.data.semantic.label_checks import check_same_size

_Record = dict[str, Any]
ANNOTATION_ERRORS = (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


class CheckedDatasetMapper(DatasetMapper):
    """Maps a data set record to the model's input; constructed like ``DatasetMapper``.

    ``image_format`` may also be a number of channels, see :func:`read_image`.
    """

    def __call__(self, dataset_dict: _Record) -> _Record:
        """Read and augment one image with its annotations.

        Args:
            dataset_dict: a record in Detectron2's standard format; not changed.

        Returns:
            The record with ``image`` (channels, H, W), uint8 or, for a number of channels, float32;
            ``sem_seg`` (H, W) int64 if the record names a label map; and, for training,
            ``instances`` in the frame of the augmented image.

        Raises:
            FileNotFoundError: the image or its label map does not exist.
            ValueError: an image, label map or annotation is broken, or the map has another size.
            SizeMismatchError: the size of the image differs from the record's.
        """
        record = copy.deepcopy(dataset_dict)
        size = (record["height"], record["width"]) if {"height", "width"} <= record.keys() else None
        image = read_image(record["file_name"], self.image_format, size=size)
        utils.check_image_size(record, image)
        image = self._before_augmentation(image, record)
        sem_seg = self._read_label_map(record)
        if sem_seg is not None:
            check_same_size(image, sem_seg, dataset_dict)
        aug_input = AugInput(image, sem_seg=sem_seg)
        transforms = self._augment(aug_input, record["file_name"])
        # Tensors travel between processes through shared memory; NumPy arrays would be pickled.
        record["image"] = torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        if sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(aug_input.sem_seg.astype(np.int64))
        image_shape = aug_input.image.shape[:2]
        if self.proposal_topk is not None:
            utils.transform_proposals(
                record, image_shape, transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, image_shape)
        return record

    def _before_augmentation(self, image: np.ndarray, record: _Record) -> np.ndarray:
        """Return the image (H, W, channels); subclasses may change it and the annotations."""
        return image

    def _read_label_map(self, record: _Record) -> np.ndarray | None:
        """Return the label map (H, W) of a record that has one, and remove its name."""
        file_name = record.pop("sem_seg_file_name", None)
        return None if file_name is None else read_label_map(file_name)

    def _augment(self, aug_input: T.AugInput, file_name: str) -> Transform:
        height, width = aug_input.image.shape[:2]
        try:
            return self.augmentations(aug_input)
        except (ValueError, AssertionError) as error:
            raise ValueError(
                f"Augmenting {file_name} of {width} x {height} pixels (width x height) failed: "
                f"{error}"
            ) from error

    def _transform_annotations(
        self, dataset_dict: _Record, transforms: Transform, image_shape: tuple[int, int]
    ) -> None:
        """Replace ``annotations`` by ``instances`` in the frame of the augmented image."""
        file_name = dataset_dict["file_name"]
        transformed = []
        for index, annotation in enumerate(dataset_dict.pop("annotations")):
            if flag(annotation.get("iscrowd")) == 1:
                continue
            try:
                transformed.append(self._transform_one(annotation, transforms, image_shape))
            except ANNOTATION_ERRORS as error:
                raise ValueError(
                    f"Annotation {index} (from 0) of {file_name} is corrupt: {error!r}. Correct "
                    "it or remove it from the data set."
                ) from error
        try:
            instances = utils.annotations_to_instances(
                transformed, image_shape, mask_format=self.instance_mask_format
            )
        except ANNOTATION_ERRORS as error:
            raise ValueError(
                f"The annotations of {file_name} cannot be read with instance_mask_format="
                f"{self.instance_mask_format}: {error!r}. Masks that are run-length codes need "
                "'bitmask'."
            ) from error
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
            instances.gt_boxes.clip(image_shape)  # polygons may reach beyond a crop
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def _transform_one(
        self, annotation: _Record, transforms: Transform, image_shape: tuple[int, int]
    ) -> _Record:
        """Return one annotation in the augmented image's frame, its box as (x1, y1, x2, y2)."""
        if not self.use_keypoint:
            annotation.pop("keypoints", None)
        if not self.use_instance_mask:
            annotation.pop("segmentation", None)
        elif not annotation.get("segmentation"):
            raise ValueError("it has no 'segmentation', but the model learns masks")
        if flag(annotation.get("iscrowd")) is None:
            raise ValueError(f"its 'iscrowd' is {annotation['iscrowd']!r}, neither 0 nor 1")
        box = [float(value) for value in annotation["bbox"]]
        if len(box) != 4 or not np.isfinite(box).all():
            raise ValueError(f"its box {box} is not four finite numbers")
        int(annotation["category_id"])  # fails here, where the annotation can be named
        annotation["bbox"] = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYXY_ABS)
        annotation["bbox_mode"] = BoxMode.XYXY_ABS
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict) and (problem := run_length_problem(segmentation, None)):
            raise ValueError(problem)
        if isinstance(segmentation, list):
            annotation["segmentation"] = [np.asarray(p, dtype=np.float64) for p in segmentation]
        annotation = utils.transform_instance_annotations(
            annotation, transforms, image_shape, keypoint_hflip_indices=self.keypoint_hflip_indices
        )
        if isinstance(annotation.get("segmentation"), np.ndarray):
            # Pillow returns a read-only array after resizing, which makes PyTorch warn.
            annotation["segmentation"] = annotation["segmentation"].copy()
        return annotation
