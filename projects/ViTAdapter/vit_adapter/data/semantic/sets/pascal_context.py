"""PASCAL-Context: 59 of its 459 classes, with the image lists of VOC 2010; others are ignored."""

from pathlib import Path

from vit_adapter.data.semantic.sets.definition import Conversion, DataSet, Split
from vit_adapter.data.semantic.sets.label_set import read_label_set

_ROOT = Path("VOCdevkit/VOC2010")
_LABEL_SET = read_label_set("pascal_context_59")


def _split(name: str, count: int) -> Split:
    return Split(
        name=f"pascal_context_59_{name}",
        title=name,
        label_set=_LABEL_SET,
        conversion=Conversion(
            _LABEL_SET.lookup_table(460), frozenset(range(460)), mat_key="LabelMap"
        ),
        images=_ROOT / "JPEGImages",
        official=_ROOT / "trainval",
        prepared=_ROOT / "context_59_detectron2",
        names_file=_ROOT / "ImageSets" / "Main" / f"{name}.txt",
        count=count,
        image_origin=(
            "VOCtrainval_03-May-2010.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2010/"
        ),
        label_origin="trainval.tar.gz of https://cs.stanford.edu/~roozbeh/pascal-context/",
        official_suffix=".mat",
    )


DATA_SET = DataSet(
    title="PASCAL-Context (59 of 459 classes)",
    layout=(
        "VOCdevkit/VOC2010/{JPEGImages,ImageSets/Main,trainval}; trainval holds the label maps "
        "(*.mat) of all 459 classes"
    ),
    splits=(_split("train", 4_998), _split("val", 5_105)),
)
