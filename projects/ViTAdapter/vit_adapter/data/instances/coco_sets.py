"""The COCO data sets that Detectron2 registers."""

from __future__ import annotations

import os

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin import _PREDEFINED_SPLITS_COCO
from detectron2.utils.file_io import PathManager

from vit_adapter.data.catalog import describe_data_root

_NAMES = frozenset(name for splits in _PREDEFINED_SPLITS_COCO.values() for name in splits)


def check_downloaded(dataset_name: str) -> None:
    """Check that the files of a data set exist, if it is one of COCO's in Detectron2.

    Detectron2 would report only the path of the missing file, after the model has been built.

    Raises:
        FileNotFoundError: annotations or images are missing. The message names the data root.
    """
    if dataset_name not in _NAMES:
        return
    metadata = MetadataCatalog.get(dataset_name)
    for path in (metadata.json_file, metadata.image_root):
        if not PathManager.exists(path):
            raise FileNotFoundError(
                f"The data set {dataset_name!r} needs {os.path.abspath(path)}, which does not "
                f"exist. {describe_data_root()} Put COCO there as coco/, or give your own data: "
                "data.train_json, data.train_images, data.val_json and data.val_images."
            )
