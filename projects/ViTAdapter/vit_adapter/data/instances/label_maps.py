"""Label maps beside the instances of a data set, such as COCO-Stuff's beside COCO's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import get_detection_dataset_dicts

from vit_adapter.data.catalog import data_root

_NUM_EXAMPLES = 3
_WITHOUT = (
    "To train without the semantic branch, which needs no label maps: "
    "model.roi_heads.semantic_head=null."
)


def instances_with_label_maps(
    *, names: str | Sequence[str], label_root: str | None = None, filter_empty: bool = True
) -> list[dict[str, Any]]:
    """Load records of instances and add a label map to each.

    Args:
        names: registered name or names of the data sets.
        label_root: folder with a PNG file for each image, named like it, as an absolute path or
            below the folder of all data sets (``$DETECTRON2_DATASETS``). None if the records name
            their label maps themselves.
        filter_empty: whether images without annotations are left out.

    Returns:
        Detectron2's records, with ``sem_seg_file_name``.

    Raises:
        FileNotFoundError: the folder or a label map does not exist; the message names the file.
        ValueError: two images have the same name.
    """
    records = get_detection_dataset_dicts(names, filter_empty=filter_empty)
    if label_root is None:
        return records
    folder = data_root() / label_root
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The folder of label maps {folder} does not exist. Correct "
            f"dataloader.train.dataset.label_root. {_WITHOUT}"
        )
    wanted = [f"{Path(record['file_name']).stem}.png" for record in records]
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if wanted.count(name) > 1)
        raise ValueError(
            f"Several images have the label map {folder / twice}. Images in different folders need "
            "different names."
        )
    present = set(os.listdir(folder))
    missing = [str(folder / name) for name in wanted if name not in present]
    if missing:
        more = ", ..." if len(missing) > _NUM_EXAMPLES else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(wanted)} images have no label map: "
            f"{', '.join(missing[:_NUM_EXAMPLES])}{more} (file not found). {_WITHOUT}"
        )
    pairs = zip(records, wanted, strict=True)
    return [{**record, "sem_seg_file_name": str(folder / name)} for record, name in pairs]
