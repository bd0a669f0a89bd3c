"""Turn semantic labels into panoptic ones: objects are the connected components of their class.

Objects of a class that touch become one, and one that is cut into pieces becomes several. So the
result is a stand-in where no instances are labelled, not their truth.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from vit_adapter.data.image_io import colours_of_ids
from vit_adapter.data.semantic.label_checks import read_pair
from vit_adapter.data.semantic.label_folders import find_label_pairs
from vit_adapter.data.semantic.own_folders import default_colors, read_class_names
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL
from vit_adapter.utils.atomic import atomic_open


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; if something is missing or broken, exit with a message and status 1."""
    options = _build_parser().parse_args(arguments)
    try:
        convert(options)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


def convert(options: argparse.Namespace) -> None:
    """Convert a folder of label maps.

    The panoptic file is written last, when all maps are there.

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken, a class is unknown, or nothing
            is labelled.
    """
    names = read_class_names(options.classes)
    unknown = sorted(set(options.things) - set(names))
    if unknown:
        raise ValueError(f"--things has {unknown}, but the classes are {', '.join(names)}.")
    things = {names.index(name) for name in options.things}
    pairs = find_label_pairs(options.images, options.labels)
    for folder in (options.pngs, options.json.parent):
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, pair in enumerate(tqdm(pairs, unit="image"), start=1):
        _, labels = read_pair(pair, "RGB", len(names))
        ids, segments = find_segments(labels, things, options.min_area)
        if not segments:  # nothing to learn from, so configs refuse such images
            continue
        map_file = f"{number:06d}.png"
        Image.fromarray(colours_of_ids(ids)).save(options.pngs / map_file)
        name = Path(pair["file_name"]).relative_to(options.images).as_posix()
        height, width = ids.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        annotations.append({"image_id": number, "file_name": map_file, "segments_info": segments})
    if not images:
        raise ValueError(f"No label map in {options.labels} has a segment, so nothing was written.")
    categories = [
        {"id": i, "name": name, "isthing": int(i in things), "color": list(color)}
        for i, (name, color) in enumerate(zip(names, default_colors(len(names)), strict=True))
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    with atomic_open(options.json) as stream:
        json.dump(content, stream)
    print(f"{len(images)} of {len(pairs)} images written to {options.json} and {options.pngs}")


def find_segments(
    labels: np.ndarray, things: Collection[int], min_area: int = 1
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Find the objects of the things, by connected components, and the stuff in a label map.

    Args:
        labels: (H, W) uint8, class indices or 255 for none.
        things: class indices whose connected components are objects. Pixels that touch at a corner
            are connected.
        min_area: objects of fewer pixels get no label.

    Returns:
        Segment ids (H, W), 0 for none, and COCO's ``segments_info``.
    """
    ids = np.zeros(labels.shape, np.int64)
    segments: list[dict[str, Any]] = []
    for label in sorted(set(np.unique(labels).tolist()) - {IGNORE_LABEL}):
        mask = labels == label
        parts = ndimage.label(mask, np.ones((3, 3)))[0] if label in things else mask.astype(int)
        areas = np.bincount(parts.ravel())
        for part in range(1, len(areas)):
            if label in things and areas[part] < min_area:
                continue
            segment = {"id": len(segments) + 1, "category_id": label, "area": int(areas[part])}
            segments.append({**segment, "iscrowd": 0})
            ids[parts == part] = segment["id"]
    return ids, segments


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--labels", type=Path, required=True, help="folder of label maps")
    parser.add_argument(
        "--classes", type=Path, required=True, help="JSON file of class names, as data.classes"
    )
    parser.add_argument(
        "--things", nargs="+", required=True, metavar="NAME", help="classes that are objects"
    )
    parser.add_argument(
        "--min-area",
        type=int,
        default=1,
        help="objects of fewer pixels get no label (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, required=True, help="panoptic file to write")
    parser.add_argument("--pngs", type=Path, required=True, help="folder of segment maps to write")
    return parser


if __name__ == "__main__":
    main()
