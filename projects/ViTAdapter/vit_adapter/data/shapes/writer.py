"""Writes generated scenes as a data set in COCO's instance, semantic and panoptic formats.

Layout below the root, for each split (``train``, ``val``)::

    <split>/000001.png                     RGB image; image ids count from 1
    annotations/instances_<split>.json     COCO instances; masks of the visible pixels, as RLE
    annotations/panoptic_<split>.json      COCO panoptic segments
    panoptic_<split>/000001.png            segment ids, coded as R + 256 G + 256^2 B
    semantic_<split>/000001.png            one label per class, things and stuff
    stuff_<split>/000001.png               0 for all things, stuff classes from 1

Labels (``IGNORE_LABEL`` = 255 is reserved in both semantic folders; the truth is complete, so it
never occurs):

    class      COCO category id   semantic label   stuff label
    circle            1                 0               0
    square            2                 1               0
    triangle          3                 2               0
    speckle           4                 3               1
    stripes           5                 4               2

Masks are RLE rather than polygons, because a shape painted over another may cut it into pieces or
leave a hole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from vit_adapter.data.image_io import colours_of_ids
from vit_adapter.data.shapes.scene import STUFF_CLASSES, THING_CLASSES, Scene

IGNORE_LABEL = 255
SPLITS: tuple[str, ...] = ("train", "val")
# Folders of PNG files; "{}" is the split.
PNG_FOLDERS: tuple[str, ...] = ("{}", "panoptic_{}", "semantic_{}", "stuff_{}")

# RGB colours for drawing labels, from Okabe and Ito's palette
COLOURS: dict[str, tuple[int, int, int]] = {
    "things": (0, 0, 0),
    "circle": (213, 94, 0),
    "square": (0, 114, 178),
    "triangle": (0, 158, 115),
    "speckle": (170, 170, 170),
    "stripes": (240, 228, 66),
}

_JsonDict = dict[str, Any]


def thing_category_id(category: int) -> int:
    """Return the COCO category id of an index into ``THING_CLASSES``."""
    return 1 + category


def stuff_category_id(stuff: int) -> int:
    """Return the COCO category id of an index into ``STUFF_CLASSES``."""
    return 1 + len(THING_CLASSES) + stuff


def image_file(image_id: int) -> str:
    """Return the name that an image and its label maps share."""
    return f"{image_id:06d}.png"


def instances_json(root: Path, split: str) -> Path:
    """Return the path of the COCO instance annotations of a split."""
    return root / "annotations" / f"instances_{split}.json"


def panoptic_json(root: Path, split: str) -> Path:
    """Return the path of the COCO panoptic annotations of a split."""
    return root / "annotations" / f"panoptic_{split}.json"


def write_split(root: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write all files of one split below ``root``, to which no other process may write.

    Args:
        root: folder to write to; missing sub-folders are created.
        split: one of ``SPLITS``.
        scenes: drawn one at a time, so that a large split needs little memory.
    """
    for folder in (*PNG_FOLDERS, "annotations"):
        (root / folder.format(split)).mkdir(parents=True, exist_ok=True)
    images: list[_JsonDict] = []
    instances: list[_JsonDict] = []
    panoptic: list[_JsonDict] = []
    for image_id, scene in enumerate(scenes, start=1):
        _write_pictures(root, split, image_id, scene)
        height, width = scene.segments.shape
        images.append(
            {"id": image_id, "file_name": image_file(image_id), "height": height, "width": width}
        )
        for annotation in instance_annotations(scene):
            instances.append({"id": len(instances) + 1, "image_id": image_id, **annotation})
        panoptic.append(
            {
                "image_id": image_id,
                "file_name": image_file(image_id),
                "segments_info": panoptic_segments(scene),
            }
        )
    info = {"description": f"Generated shapes, {split} split", "version": "1.0"}
    common = {"info": info, "licenses": [], "images": images}
    things = [
        {key: category[key] for key in ("id", "name", "supercategory")}
        for category in _categories()
        if category["isthing"]
    ]
    _write_json(
        instances_json(root, split),
        {
            **common,
            "annotations": instances,
            "categories": things,
        },
    )
    _write_json(
        panoptic_json(root, split), {**common, "annotations": panoptic, "categories": _categories()}
    )


def instance_annotations(scene: Scene) -> list[_JsonDict]:
    """Return one COCO annotation for each shape, without ``id`` and ``image_id``.

    ``bbox`` is (x, y, width, height) around the visible pixels, and ``area`` is their number.
    """
    annotations = []
    for index, category in enumerate(scene.categories):
        mask = scene.visible_mask(index)
        rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        annotations.append(
            {
                "category_id": thing_category_id(category),
                "bbox": _bounding_box(mask),
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
            }
        )
    return annotations


def panoptic_ids(scene: Scene) -> np.ndarray:
    """Return (H, W) int64 segment ids: shapes from 1 in painting order, then the visible stuff."""
    first_stuff = len(scene.categories) + 1
    return np.where(scene.segments > 0, scene.segments, first_stuff + scene.ground.astype(np.int64))


def panoptic_segments(scene: Scene) -> list[_JsonDict]:
    """Return COCO's ``segments_info``: every id that occurs in ``panoptic_ids``, and no other."""
    ids = panoptic_ids(scene)
    category_ids = [thing_category_id(category) for category in scene.categories]
    category_ids += [stuff_category_id(stuff) for stuff in range(len(STUFF_CLASSES))]
    segments = []
    for segment_id, category_id in enumerate(category_ids, start=1):
        mask = ids == segment_id
        if mask.any():
            segments.append(
                {
                    "id": segment_id,
                    "category_id": category_id,
                    "bbox": _bounding_box(mask),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                }
            )
    return segments


def semantic_labels(scene: Scene) -> np.ndarray:
    """Return (H, W) uint8: thing classes first, then stuff classes, contiguous from 0."""
    things = scene.things()
    return np.where(things >= 0, things, len(THING_CLASSES) + scene.ground).astype(np.uint8)


def stuff_labels(scene: Scene) -> np.ndarray:
    """Return (H, W) uint8: 0 on things, stuff classes from 1, as panoptic FPN expects."""
    return np.where(scene.segments > 0, 0, 1 + scene.ground).astype(np.uint8)


def _write_pictures(root: Path, split: str, image_id: int, scene: Scene) -> None:
    coded = colours_of_ids(panoptic_ids(scene))
    pictures = (scene.image, coded, semantic_labels(scene), stuff_labels(scene))
    for folder, pixels in zip(PNG_FOLDERS, pictures, strict=True):
        # Level 1, because higher levels hardly shrink the noise but take most of the time.
        target = root / folder.format(split) / image_file(image_id)
        Image.fromarray(pixels).save(target, compress_level=1)


def _bounding_box(mask: np.ndarray) -> list[float]:
    """Return (x, y, width, height) around the true pixels of an (H, W) mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [float(v) for v in (x, y, columns[-1] + 1 - x, rows[-1] + 1 - y)]


def _categories() -> list[_JsonDict]:
    """Return the categories of the panoptic format."""
    things = [(thing_category_id(i), name, 1) for i, name in enumerate(THING_CLASSES)]
    stuff = [(stuff_category_id(i), name, 0) for i, name in enumerate(STUFF_CLASSES)]
    return [
        {
            "id": category_id,
            "name": name,
            "supercategory": "shape" if is_thing else "ground",
            "isthing": is_thing,
            "color": list(COLOURS[name]),
        }
        for category_id, name, is_thing in things + stuff
    ]


def _write_json(path: Path, content: _JsonDict) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
