"""COCO-Stuff 10K: 171 classes, namely 80 things and 91 stuff classes of the 182 of COCO-Stuff.

The archive has no top-level folder, so unpack it in ``coco_stuff_10k/``. Its label files are MATLAB
files of COCO-Stuff's ids.
"""

from pathlib import Path

from vit_adapter.data.semantic.sets.definition import Conversion, DataSet, Split
from vit_adapter.data.semantic.sets.label_set import read_label_set

_ROOT = Path("coco_stuff_10k")
_ORIGIN = "cocostuff-10k-v1.1.zip of https://github.com/nightrome/cocostuff10k"
_LABEL_SET = read_label_set("coco_stuff")


def _split(name: str, count: int) -> Split:
    return Split(
        name=f"coco_stuff_10k_{name}",
        title=name,
        label_set=_LABEL_SET,
        conversion=Conversion(_LABEL_SET.lookup_table(256), frozenset(range(183)), mat_key="S"),
        images=_ROOT / "images",
        official=_ROOT / "annotations",
        prepared=_ROOT / "annotations_detectron2",
        names_file=_ROOT / "imageLists" / f"{name}.txt",
        count=count,
        image_origin=_ORIGIN,
        label_origin=_ORIGIN,
        official_suffix=".mat",
    )


DATA_SET = DataSet(
    title="COCO-Stuff 10K (171 classes)",
    layout="coco_stuff_10k/{images,annotations,imageLists}",
    splits=(_split("train", 9_000), _split("test", 1_000)),
)
