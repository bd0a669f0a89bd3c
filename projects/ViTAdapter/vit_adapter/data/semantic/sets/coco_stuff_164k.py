"""COCO-Stuff 164K: the 171 classes of COCO-Stuff 10K for all images of COCO.

The pixel maps hold COCO-Stuff's ids minus 1. Their archive has no top-level folder, so unpack it in
``coco/stuffthingmaps/``, next to COCO's other annotations.
"""

from pathlib import Path

from vit_adapter.data.semantic.sets.definition import Conversion, DataSet, Split
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL, read_label_set

_ROOT = Path("coco")
_LABEL_SET = read_label_set("coco_stuff")


def _split(name: str, count: int) -> Split:
    folder = f"{name}2017"
    return Split(
        name=f"coco_stuff_164k_{name}",
        title=folder,
        label_set=_LABEL_SET,
        conversion=Conversion(
            _LABEL_SET.lookup_table(256, offset=1), frozenset([*range(182), IGNORE_LABEL])
        ),
        images=_ROOT / folder,
        official=_ROOT / "stuffthingmaps" / folder,
        prepared=_ROOT / "stuffthingmaps_detectron2" / folder,
        count=count,
        image_origin=f"{folder}.zip of https://cocodataset.org/#download",
        label_origin="stuffthingmaps_trainval2017.zip of https://github.com/nightrome/cocostuff",
    )


DATA_SET = DataSet(
    title="COCO-Stuff 164K (171 classes)",
    layout="coco/{train2017,val2017} and coco/stuffthingmaps/{train2017,val2017}",
    splits=(_split("train", 118_287), _split("val", 5_000)),
)
