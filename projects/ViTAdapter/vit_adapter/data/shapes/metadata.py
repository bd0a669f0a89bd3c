"""The entries for the generated shapes in Detectron2's ``MetadataCatalog``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vit_adapter.data.shapes import writer
from vit_adapter.data.shapes.scene import STUFF_CLASSES, THING_CLASSES


def instance_metadata(root: Path, split: str) -> dict[str, Any]:
    """Return the entry of the instance data set; ``mask_format`` says that its masks are RLE."""
    return {
        "json_file": str(writer.instances_json(root, split)),
        "image_root": str(root / split),
        "evaluator_type": "coco",
        "thing_classes": list(THING_CLASSES),
        "thing_colors": _colours(THING_CLASSES),
        "thing_dataset_id_to_contiguous_id": {
            writer.thing_category_id(i): i for i in range(len(THING_CLASSES))
        },
        "mask_format": "bitmask",
    }


def semantic_metadata(root: Path, split: str) -> dict[str, Any]:
    """Return the entry of the labels of all classes: label = category id - 1, things first."""
    names = THING_CLASSES + STUFF_CLASSES
    return {
        **_sem_seg_files(root, split, "semantic"),
        "stuff_classes": list(names),
        "stuff_colors": _colours(names),
        "stuff_dataset_id_to_contiguous_id": {i + 1: i for i in range(len(names))},
    }


def stuff_metadata(root: Path, split: str) -> dict[str, Any]:
    """Return the entry of the stuff-only labels; 0 stands for all things, as in Detectron2."""
    names = ("things", *STUFF_CLASSES)
    ids = {writer.stuff_category_id(i): i + 1 for i in range(len(STUFF_CLASSES))}
    return {
        **_sem_seg_files(root, split, "stuff"),
        "stuff_classes": list(names),
        "stuff_colors": _colours(names),
        "stuff_dataset_id_to_contiguous_id": {0: 0, **ids},
    }


def panoptic_metadata(root: Path, split: str) -> dict[str, Any]:
    """Return the entry of the panoptic data with one range of labels for things and stuff."""
    return _panoptic_files(root, split) | semantic_metadata(root, split) | _PANOPTIC_TYPE


def separated_metadata(root: Path, split: str) -> dict[str, Any]:
    """Return the entry of the panoptic data with one range for things and one for stuff."""
    return _panoptic_files(root, split) | stuff_metadata(root, split) | _PANOPTIC_TYPE


_PANOPTIC_TYPE = {"evaluator_type": "coco_panoptic_seg", "label_divisor": 1000}


def _panoptic_files(root: Path, split: str) -> dict[str, Any]:
    return instance_metadata(root, split) | {
        "panoptic_root": str(root / f"panoptic_{split}"),
        "panoptic_json": str(writer.panoptic_json(root, split)),
    }


def _sem_seg_files(root: Path, split: str, kind: str) -> dict[str, Any]:
    return {
        "image_root": str(root / split),
        "sem_seg_root": str(root / f"{kind}_{split}"),
        "evaluator_type": "sem_seg",
        "ignore_label": writer.IGNORE_LABEL,
    }


def _colours(names: tuple[str, ...]) -> list[tuple[int, int, int]]:
    return [writer.COLOURS[name] for name in names]
