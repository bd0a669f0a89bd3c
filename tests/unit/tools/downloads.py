"""Tiny downloads of the data sets, with the official layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

LABELS = np.array([[0, 1, 2, 3], [30, 31, 32, 33], [12, 13, 24, 25]], np.uint8)


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path)


def write_labels(path: Path, values: np.ndarray = LABELS, key: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if key is not None:
        savemat(path, {key: values, "names": ["a", "b"]})
        return
    picture = Image.fromarray(values)
    if "mapillary" in str(path):  # its official files have palettes
        picture.putpalette(list(range(256)) * 3)
    picture.save(path)


def write_list(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def ade20k(root: Path) -> None:
    for split in ("training", "validation"):
        folder = root / "ADEChallengeData2016"
        write_image(folder / f"images/{split}/ADE_1.jpg")
        write_labels(folder / f"annotations/{split}/ADE_1.png")


def cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "lindau")):
        write_image(root / f"cityscapes/leftImg8bit/{split}/{city}/{city}_0_leftImg8bit.png")
        stem = root / f"cityscapes/gtFine/{split}/{city}/{city}_0_gtFine"
        write_labels(Path(f"{stem}_labelIds.png"))
        write_labels(Path(f"{stem}_instanceIds.png"))
        Path(f"{stem}_polygons.json").write_text('{"imgHeight": 3, "imgWidth": 4, "objects": []}')


def coco_stuff_10k(root: Path) -> None:
    folder = root / "coco_stuff_10k"
    for split, name in (("train", "COCO_1"), ("test", "COCO_2")):
        write_image(folder / f"images/{name}.jpg")
        write_labels(folder / f"annotations/{name}.mat", key="S")
        write_list(folder / f"imageLists/{split}.txt", name)


def coco_stuff_164k(root: Path) -> None:
    for split in ("train2017", "val2017"):
        write_image(root / f"coco/{split}/0001.jpg")
        write_labels(root / f"coco/stuffthingmaps/{split}/0001.png")


def pascal_context(root: Path) -> None:
    folder = root / "VOCdevkit/VOC2010"
    for split, name in (("train", "2008_1"), ("val", "2008_2")):
        write_image(folder / f"JPEGImages/{name}.jpg")
        values = LABELS.astype(np.uint16)
        values[0, 0] = 458
        write_labels(folder / f"trainval/{name}.mat", values, key="LabelMap")
        write_list(folder / f"ImageSets/Main/{split}.txt", name)
    write_image(folder / "JPEGImages/2009_3.jpg")  # VOC has more images than PASCAL-Context


def mapillary(root: Path) -> None:
    for split in ("training", "validation"):
        write_image(root / f"mapillary_vistas/{split}/images/x.jpg")
        write_labels(root / f"mapillary_vistas/{split}/labels/x.png", LABELS + 32)


DOWNLOADS: dict[str, Callable[[Path], None]] = {
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "coco_stuff_10k": coco_stuff_10k,
    "coco_stuff_164k": coco_stuff_164k,
    "pascal_context": pascal_context,
    "mapillary": mapillary,
}
