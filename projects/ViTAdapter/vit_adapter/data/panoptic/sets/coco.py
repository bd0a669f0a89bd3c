"""COCO 2017: 133 classes, of which 80 are things, in Detectron2's order; nothing is converted."""

from pathlib import Path

import numpy as np

from vit_adapter.data.panoptic.sets.definition import PanopticSet, PanopticSplit
from vit_adapter.data.semantic.sets.definition import Conversion, Split
from vit_adapter.data.semantic.sets.label_set import LabelSet

_ROOT = Path("coco")
_SITE = "https://cocodataset.org/#download"


def _split(name: str, count: int) -> PanopticSplit:
    maps = _ROOT / f"panoptic_{name}2017"
    source = Split(
        name=f"coco_2017_{name}_panoptic",
        title=f"{name}2017",
        # Label files of classes, which do not exist here
        label_set=LabelSet(names=(), colors=(), values=()),
        conversion=Conversion(np.zeros(0, np.uint8), frozenset()),
        images=_ROOT / f"{name}2017",
        official=maps,
        prepared=maps,
        count=count,
        image_origin=f"{name}2017.zip of {_SITE}",
        label_origin=(
            f"panoptic_annotations_trainval2017.zip of {_SITE}, which holds panoptic_{name}2017.zip"
        ),
    )
    return PanopticSplit(
        name=source.name,
        title=source.title,
        sources=(source,),
        maps=maps,
        json_file=_ROOT / "annotations" / f"panoptic_{name}2017.json",
    )


DATA_SET = PanopticSet(
    title="COCO 2017 (133 classes, 80 of them things)",
    layout="coco/{train2017,val2017,panoptic_train2017,panoptic_val2017}, "
    "coco/annotations/panoptic_{train,val}2017.json",
    splits=(_split("train", 118_287), _split("val", 5_000)),
    in_detectron2=True,
)
