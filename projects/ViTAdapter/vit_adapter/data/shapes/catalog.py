"""Registers the generated data set of coloured shapes on textured ground in Detectron2.

Names in the catalogs, for ``<split>`` in ``train`` and ``val``:

=====================================  ======================================================
``shapes_<split>``                     instances: boxes and masks, which are run-length codes, so
                                       that mappers need ``instance_mask_format="bitmask"``
``shapes_<split>_sem_seg``             semantic labels of all five classes
``shapes_<split>_panoptic``            panoptic segments plus those semantic labels
``shapes_<split>_panoptic_separated``  instances plus stuff-only labels, for panoptic FPN
``shapes_<split>_panoptic_stuffonly``  stuff-only labels
=====================================  ======================================================

``variants`` lists more names, for the same images with other pixels.
The endings have the same meaning as in Detectron2's names for COCO. ``writer`` lists the labels.
Nothing is written before the records of one of these names are requested.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets import load_coco_json, load_sem_seg
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic
from detectron2.utils import comm
from tqdm import tqdm

from vit_adapter.data.catalog import data_root, register
from vit_adapter.data.shapes import metadata, writer
from vit_adapter.data.shapes.scene import MIN_IMAGE_SIZE, Scene, draw_scene
from vit_adapter.data.shapes.variants import register_variants
from vit_adapter.utils.atomic import atomic_folder

NUM_TRAIN = 1000
NUM_VAL = 100
IMAGE_SIZE = 128
SEED = 0

_INFO_FILE = "shapes.json"
# Increase this whenever the same arguments would draw different images or write different files.
_GENERATOR_VERSION = 1

_logger = logging.getLogger(__name__)


def default_root() -> Path:
    """Return the absolute path of ``$DETECTRON2_DATASETS/shapes``, or of ``datasets/shapes``."""
    return data_root() / "shapes"


def generate_shapes(
    root: str | Path,
    *,
    num_train: int = NUM_TRAIN,
    num_val: int = NUM_VAL,
    image_size: int = IMAGE_SIZE,
    seed: int = SEED,
) -> Path:
    """Make sure that ``root`` holds the data set of these arguments; write it if it is not there.

    Everything is written to a temporary folder next to ``root``, which is renamed at the end. So
    ``root`` is complete whenever it exists, even after a crash or when several processes start at
    the same time. Equal arguments give files that are equal byte for byte. Image ``i`` of a split
    does not depend on the number of images.

    Args:
        root: folder of the data set; its parents are created.
        num_train: number of training images, at least 1.
        num_val: number of validation images, at least 1.
        image_size: side of the square images in pixels, at least 64.
        seed: random seed, at least 0.

    Returns:
        ``root`` as an absolute path.

    Raises:
        ValueError: an argument is out of range, or ``root`` holds something else or an incomplete
            data set.
    """
    root = Path(root).expanduser().absolute()
    info = _describe(num_train, num_val, image_size, seed)
    if _is_complete(root, info):
        return root
    _logger.info("Generating %d + %d images of shapes in %s", num_train, num_val, root)
    try:
        with atomic_folder(root) as temporary:
            _write_all(temporary, info)
    except OSError:  # another process may have been faster
        if not _is_complete(root, info):
            raise
    return root


def register_shapes(
    root: str | Path | None = None,
    *,
    num_train: int = NUM_TRAIN,
    num_val: int = NUM_VAL,
    image_size: int = IMAGE_SIZE,
    seed: int = SEED,
) -> None:
    """Register the names that this module lists; generate the data only when one of them is used.

    Registering again points the names to the new root and arguments. Importing ``vit_adapter.data``
    registers the default ones.

    Args:
        root: folder of the data set, ``default_root()`` if None.
        num_train, num_val, image_size, seed: see ``generate_shapes``.
    """
    root = default_root() if root is None else Path(root).expanduser().absolute()
    prepare = partial(
        generate_shapes,
        root,
        num_train=num_train,
        num_val=num_val,
        image_size=image_size,
        seed=seed,
    )
    for split in writer.SPLITS:
        name = f"shapes_{split}"
        separated = f"{name}_panoptic_separated"
        entries = {
            name: (partial(_load_instances, prepare, split, name), metadata.instance_metadata),
            f"{name}_sem_seg": (
                partial(_load_semantic, prepare, split, "semantic"),
                metadata.semantic_metadata,
            ),
            f"{name}_panoptic": (
                partial(_load_panoptic, prepare, split),
                metadata.panoptic_metadata,
            ),
            separated: (
                partial(_load_separated, prepare, split, separated),
                metadata.separated_metadata,
            ),
            f"{name}_panoptic_stuffonly": (
                partial(_load_semantic, prepare, split, "stuff"),
                metadata.stuff_metadata,
            ),
        }
        for entry, (load, describe) in entries.items():
            register(entry, load, **describe(root, split))
        register_variants(root, split)


def _describe(num_train: int, num_val: int, image_size: int, seed: int) -> dict[str, int]:
    """Check the arguments; return the contents of the info file, which identify a data set."""
    lowest = {"num_train": 1, "num_val": 1, "image_size": MIN_IMAGE_SIZE, "seed": 0}
    info = {"num_train": num_train, "num_val": num_val, "image_size": image_size, "seed": seed}
    for key, value in info.items():
        if value < lowest[key]:
            raise ValueError(f"{key} must be at least {lowest[key]}, got {value}.")
    return {"generator_version": _GENERATOR_VERSION, **info}


def _is_complete(root: Path, info: dict[str, int]) -> bool:
    """Return whether ``root`` is the wanted data set; raise if it is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = "Remove that folder, or choose another one (DETECTRON2_DATASETS names its parent)."
    info_file = root / _INFO_FILE
    if not info_file.is_file():
        raise ValueError(f"{root} exists but does not hold the generated shapes. {advice}")
    found = json.loads(info_file.read_text(encoding="utf-8"))
    if found != info:
        raise ValueError(f"{root} holds shapes made with {found}, expected {info}. {advice}")
    for split in writer.SPLITS:
        paths = [writer.instances_json(root, split), writer.panoptic_json(root, split)]
        names = [writer.image_file(i) for i in range(1, info[f"num_{split}"] + 1)]
        paths += [root / f.format(split) / name for f in writer.PNG_FOLDERS for name in names]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} files are missing in {root}, such as {missing[0]}. {advice}"
            )
    return True


def _write_all(folder: Path, info: dict[str, int]) -> None:
    total = info["num_train"] + info["num_val"]
    progress = tqdm(
        total=total,
        desc="shapes",
        unit="image",
        delay=1.0,
        mininterval=0.5,  # seconds; output to a file keeps every update as a line
        disable=not comm.is_main_process(),
    )
    with progress:
        for index, split in enumerate(writer.SPLITS):
            writer.write_split(folder, split, _scenes(index, info[f"num_{split}"], info, progress))
    (folder / _INFO_FILE).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def _scenes(split_index: int, count: int, info: dict[str, int], progress: tqdm) -> Iterator[Scene]:
    for image_index in range(count):
        rng = np.random.default_rng([info["seed"], split_index, image_index])
        yield draw_scene(rng, info["image_size"])
        progress.update()


def _load_instances(prepare: Callable[[], Path], split: str, name: str) -> list[dict[str, Any]]:
    root = prepare()
    return load_coco_json(str(writer.instances_json(root, split)), str(root / split), name)


def _load_semantic(prepare: Callable[[], Path], split: str, kind: str) -> list[dict[str, Any]]:
    root = prepare()
    return load_sem_seg(str(root / f"{kind}_{split}"), str(root / split), image_ext="png")


def _load_separated(prepare: Callable[[], Path], split: str, name: str) -> list[dict[str, Any]]:
    return merge_to_panoptic(
        _load_instances(prepare, split, name), _load_semantic(prepare, split, "stuff")
    )


def _load_panoptic(prepare: Callable[[], Path], split: str) -> list[dict[str, Any]]:
    """Load like Detectron2's ``load_coco_panoptic_json``, which knows only JPEG images."""
    root = prepare()
    content = json.loads(writer.panoptic_json(root, split).read_text(encoding="utf-8"))
    sizes = {image["id"]: image for image in content["images"]}
    is_thing = {category["id"]: bool(category["isthing"]) for category in content["categories"]}
    return [
        {
            "file_name": str(root / split / annotation["file_name"]),
            "image_id": annotation["image_id"],
            "height": sizes[annotation["image_id"]]["height"],
            "width": sizes[annotation["image_id"]]["width"],
            "pan_seg_file_name": str(root / f"panoptic_{split}" / annotation["file_name"]),
            "sem_seg_file_name": str(root / f"semantic_{split}" / annotation["file_name"]),
            "segments_info": [
                {
                    **segment,
                    "category_id": segment["category_id"] - 1,
                    "isthing": is_thing[segment["category_id"]],
                }
                for segment in annotation["segments_info"]
            ],
        }
        for annotation in content["annotations"]
    ]
