"""ADE20K: 150 classes with Detectron2's names; 0 in the annotations means "other"."""

from pathlib import Path

from vit_adapter.data.semantic.sets.definition import Conversion, DataSet, Split
from vit_adapter.data.semantic.sets.label_set import read_label_set

_ROOT = Path("ADEChallengeData2016")
_ORIGIN = (
    "ADEChallengeData2016.zip of http://data.csail.mit.edu/places/ADEchallenge/"
    "ADEChallengeData2016.zip"
)
_LABEL_SET = read_label_set("ade20k")


def _split(name: str, folder: str, count: int) -> Split:
    return Split(
        name=f"ade20k_sem_seg_{name}",
        title=folder,
        label_set=_LABEL_SET,
        conversion=Conversion(_LABEL_SET.lookup_table(256), frozenset(range(151))),
        images=_ROOT / "images" / folder,
        official=_ROOT / "annotations" / folder,
        prepared=_ROOT / "annotations_detectron2" / folder,
        count=count,
        image_origin=_ORIGIN,
        label_origin=_ORIGIN,
    )


DATA_SET = DataSet(
    title="ADE20K (150 classes)",
    layout="ADEChallengeData2016/{images,annotations}/{training,validation}",
    splits=(_split("train", "training", 20_210), _split("val", "validation", 2_000)),
    in_detectron2=True,
)
