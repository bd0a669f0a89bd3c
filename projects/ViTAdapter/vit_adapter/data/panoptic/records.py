"""Records and metadata for Detectron2's catalogs from the content of a COCO panoptic file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_adapter.data.semantic.own_folders import default_colors
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL

_Entry = Mapping[str, Any]


def things_first(categories: Sequence[_Entry]) -> list[_Entry]:
    """Return the categories in the order of the model's classes: things, then stuff, by id."""
    return sorted(categories, key=lambda category: (not category["isthing"], category["id"]))


def load_records(
    content: _Entry, categories: Sequence[_Entry], map_root: Path, image_root: Path
) -> list[dict[str, Any]]:
    """Return Detectron2's records.

    Args:
        content: of a panoptic file.
        categories: in the order of the model's classes.
        map_root: folder of the segment maps.
        image_root: folder of the images.

    Returns:
        For each annotation ``file_name``, ``image_id``, ``height``, ``width``,
        ``pan_seg_file_name`` and ``segments_info``, where ``category_id`` is a class index.
    """
    images = {image["id"]: image for image in content["images"]}
    index = {category["id"]: i for i, category in enumerate(categories)}
    is_thing = {category["id"]: bool(category["isthing"]) for category in categories}
    records = []
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        segments = [
            {
                **segment,
                "category_id": index[segment["category_id"]],
                "isthing": is_thing[segment["category_id"]],
                "iscrowd": int(segment.get("iscrowd", 0)),
            }
            for segment in annotation["segments_info"]
        ]
        records.append(
            {
                "file_name": str(image_root / image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "pan_seg_file_name": str(map_root / annotation["file_name"]),
                "segments_info": segments,
            }
        )
    return records


def class_metadata(categories: Sequence[_Entry]) -> dict[str, Any]:
    """Return the classes for the metadata catalog; ``classes`` describes them.

    Args:
        categories: in the order of the model's classes, each with ``id``, ``name``, ``isthing`` and
            perhaps ``color``.
    """
    names = [category["name"] for category in categories]
    defaults = default_colors(len(names))
    stated = [category.get("color") for category in categories]
    colors = [
        tuple(color) if isinstance(color, list) and len(color) == 3 else default
        for color, default in zip(stated, defaults, strict=True)
    ]
    ids = {category["id"]: i for i, category in enumerate(categories)}
    things = {category["id"] for category in categories if category["isthing"]}
    return {
        "thing_classes": names,
        "thing_colors": colors,
        "stuff_classes": names,
        "stuff_colors": colors,
        "thing_dataset_id_to_contiguous_id": {k: i for k, i in ids.items() if k in things},
        "stuff_dataset_id_to_contiguous_id": {k: i for k, i in ids.items() if k not in things},
        "ignore_label": IGNORE_LABEL,
        "label_divisor": 1000,
        "evaluator_type": "coco_panoptic_seg",
    }
