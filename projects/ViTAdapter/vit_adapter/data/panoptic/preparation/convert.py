"""Writes the segment maps and the annotation file of a split in COCO's panoptic format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from vit_adapter.data.image_io import colours_of_ids
from vit_adapter.data.panoptic.sets.definition import PanopticSet, PanopticSplit, ReadSegments
from vit_adapter.data.semantic.preparation.convert import parallel_map
from vit_adapter.utils.atomic import atomic_open

_Entry = dict[str, Any]


def convert_split(
    split: PanopticSplit, data_set: PanopticSet, names: Sequence[str], *, workers: int = 1
) -> bool:
    """Write all files of a split, with a progress bar, unless they are there.

    The annotation file is written last, so an interrupted run can be repeated.

    Args:
        split: the split, with paths below the data root.
        data_set: what it belongs to.
        names: names of the images.
        workers: number of processes.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: a label file cannot be read or has unknown values, or the names of two images
            differ only in their folders.
    """
    stems = [PurePosixPath(name).name for name in names]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise ValueError(f"{split.title} has more than one image named {twice}. Remove the others.")
    if _is_done(split, stems):
        return False
    split.maps.mkdir(parents=True, exist_ok=True)
    with parallel_map(workers) as apply:
        results = apply(partial(_convert_image, split, data_set.read_segments), names)
        bar = tqdm(results, total=len(names), desc=split.title, unit="file", mininterval=0.5)
        entries = list(bar)
    content = {
        "images": [image for image, _ in entries],
        "annotations": [annotation for _, annotation in entries],
        "categories": list(data_set.categories),
    }
    with atomic_open(split.json_file) as stream:
        json.dump(content, stream)
    return True


def _is_done(split: PanopticSplit, stems: Sequence[str]) -> bool:
    """Whether the annotation file, which is written last, has exactly these images."""
    if not split.json_file.is_file():
        return False
    images = json.loads(split.json_file.read_bytes())["images"]
    return {image["id"] for image in images} == set(stems)


def _convert_image(
    split: PanopticSplit, read_segments: ReadSegments, name: str
) -> tuple[_Entry, _Entry]:
    """Write the segment map of an image; return the image's entry and its annotation."""
    ids, segments = read_segments(
        [s.official / f"{name}{s.official_suffix}" for s in split.sources]
    )
    stem = PurePosixPath(name).name
    map_file = Path(f"{stem}{split.map_suffix}")
    with atomic_open(split.maps / map_file, "wb", flush=False) as stream:
        Image.fromarray(colours_of_ids(ids)).save(stream, format="PNG")
    image = {
        "id": stem,
        "file_name": f"{name}{split.sources[0].image_suffix}",
        "height": ids.shape[0],
        "width": ids.shape[1],
    }
    return image, {
        "image_id": stem,
        "file_name": str(map_file),
        "segments_info": [{"iscrowd": 0, **s, **_extent(ids == s["id"])} for s in segments],
    }


def _extent(mask: np.ndarray) -> _Entry:
    """Return the area and the box (x, y, width, height) of a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    return {"area": int(mask.sum()), "bbox": box}
