"""Instances together with semantic labels, for models that learn both."""

from __future__ import annotations

from typing import Any

import numpy as np

from vit_adapter.data.image_io import read_label_map
from vit_adapter.data.instances.jitter import InstanceJitter
from vit_adapter.data.instances.mapper import ANNOTATION_ERRORS, CheckedDatasetMapper
from vit_adapter.data.semantic.label_checks import check_values


class InstanceSemanticMapper(CheckedDatasetMapper):
    """A mapper whose training records all have a label map; without one there is an error.

    Args:
        num_semantic_classes: number of semantic classes; label maps hold 0 to this number minus 1,
            and 255 for pixels without a class. None: label maps are neither needed nor read.
        instance_jitter: moves the objects of training images before the augmentations. Label maps
            stay as they are, as in the published models. None for no change.
        options: of Detectron2's ``DatasetMapper``.
    """

    def __init__(
        self,
        *,
        num_semantic_classes: int | None,
        instance_jitter: InstanceJitter | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.num_semantic_classes = num_semantic_classes
        self.instance_jitter = instance_jitter

    def _read_label_map(self, record: dict[str, Any]) -> np.ndarray | None:
        file_name = record.pop("sem_seg_file_name", None)
        if not self.is_train or self.num_semantic_classes is None:
            return None
        if file_name is None:
            raise ValueError(
                f"The record of {record['file_name']} has no 'sem_seg_file_name', but the model "
                "learns semantic labels, too. Name the folder of the label maps in "
                "dataloader.train.dataset.label_root, or train without the semantic branch: "
                "model.roi_heads.semantic_head=null."
            )
        return check_values(read_label_map(file_name), self.num_semantic_classes, file_name)

    def _before_augmentation(self, image: np.ndarray, record: dict[str, Any]) -> np.ndarray:
        if not self.is_train or self.instance_jitter is None or "annotations" not in record:
            return image
        try:
            image, record["annotations"] = self.instance_jitter(image, record["annotations"])
        except ANNOTATION_ERRORS as error:
            raise ValueError(
                f"An annotation of {record['file_name']} is corrupt: {error!r}. Correct it or "
                "remove it from the data set."
            ) from error
        return image
