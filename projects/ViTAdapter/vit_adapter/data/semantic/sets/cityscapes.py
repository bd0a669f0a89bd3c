"""Cityscapes: 19 classes with Detectron2's names, colours and values."""

from pathlib import Path

from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from vit_adapter.data.semantic.sets.definition import Conversion, DataSet, Split
from vit_adapter.data.semantic.sets.label_set import LabelSet

_ROOT = Path("cityscapes")
_SITE = "https://www.cityscapes-dataset.com/downloads/"

LABEL_SET = LabelSet(
    names=tuple(category["name"] for category in CITYSCAPES_CATEGORIES),
    colors=tuple(tuple(category["color"]) for category in CITYSCAPES_CATEGORIES),
    values=tuple((category["id"],) for category in CITYSCAPES_CATEGORIES),
)


def _split(name: str, count: int) -> Split:
    return Split(
        name=f"cityscapes_fine_sem_seg_{name}",
        title=name,
        label_set=LABEL_SET,
        # The official training labels are drawn from the same polygons in the same order.
        conversion=Conversion(LABEL_SET.lookup_table(256), frozenset(range(34))),
        images=_ROOT / "leftImg8bit" / name,
        official=_ROOT / "gtFine" / name,
        prepared=_ROOT / "gtFine" / name,
        count=count,
        image_origin=f"leftImg8bit_trainvaltest.zip of {_SITE}",
        label_origin=f"gtFine_trainvaltest.zip of {_SITE}",
        image_suffix="_leftImg8bit.png",
        official_suffix="_gtFine_labelIds.png",
        prepared_suffix="_gtFine_labelTrainIds.png",
    )


DATA_SET = DataSet(
    title="Cityscapes (19 classes)",
    layout="cityscapes/{leftImg8bit,gtFine}/{train,val}/<city>",
    splits=(_split("train", 2_975), _split("val", 500)),
    in_detectron2=True,
)
