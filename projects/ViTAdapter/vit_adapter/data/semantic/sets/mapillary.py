"""Mapillary Vistas 1.2: its own 65 classes, and the same images with the 19 of Cityscapes.

65 in the label files means "unlabeled". The archive has no top-level folder, so unpack it in
``mapillary_vistas/``.
"""

from pathlib import Path

from vit_adapter.data.semantic.sets.cityscapes import LABEL_SET as _CITYSCAPES
from vit_adapter.data.semantic.sets.definition import Conversion, DataSet, Split
from vit_adapter.data.semantic.sets.label_set import LabelSet, read_label_set

_ROOT = Path("mapillary_vistas")
_ORIGIN = "the Mapillary Vistas dataset, labels 1.2, of https://www.mapillary.com/dataset/vistas"
_LABEL_SET = read_label_set("mapillary_vistas")

# Classes of Mapillary Vistas for each class of Cityscapes, as in the original's training on
# Mapillary for Cityscapes.
_VALUES_FOR_CITYSCAPES = {
    "road": (13, 24, 41),  # road, general lane marking, manhole
    "sidewalk": (2, 15),  # curb, sidewalk
    "building": (17,),
    "wall": (6,),
    "fence": (3,),
    "pole": (45, 47),  # pole, utility pole
    "traffic light": (48,),
    "traffic sign": (50,),  # front
    "vegetation": (30,),
    "terrain": (29,),
    "sky": (27,),
    "person": (19,),
    "rider": (20, 21, 22),  # bicyclist, motorcyclist, other rider
    "car": (55,),
    "truck": (61,),
    "bus": (54,),
    "train": (58,),  # on rails
    "motorcycle": (57,),
    "bicycle": (52,),
}
_LABEL_SET_FOR_CITYSCAPES = LabelSet(
    names=_CITYSCAPES.names,
    colors=_CITYSCAPES.colors,
    values=tuple(_VALUES_FOR_CITYSCAPES[name] for name in _CITYSCAPES.names),
)


def _splits(task: str, label_set: LabelSet, *, title: str, prepared: str) -> tuple[Split, ...]:
    return tuple(
        Split(
            name=f"mapillary_vistas_{task}_{name}",
            title=f"{folder}{title}",
            label_set=label_set,
            conversion=Conversion(label_set.lookup_table(256), frozenset(range(66))),
            images=_ROOT / folder / "images",
            official=_ROOT / folder / "labels",
            other_official=_ROOT / folder / "v1.2" / "labels",  # release 2.0 includes the 1.2 ones
            prepared=_ROOT / folder / prepared,
            count=count,
            image_origin=_ORIGIN,
            label_origin=_ORIGIN,
        )
        for name, folder, count in (("train", "training", 18_000), ("val", "validation", 2_000))
    )


DATA_SET = DataSet(
    title="Mapillary Vistas 1.2 (65 classes, and the 19 of Cityscapes)",
    layout="mapillary_vistas/{training,validation}/{images,labels}",
    splits=(
        *_splits("sem_seg", _LABEL_SET, title="", prepared="labels_detectron2"),
        *_splits(
            "cityscapes",
            _LABEL_SET_FOR_CITYSCAPES,
            title=" for Cityscapes",
            prepared="labels_cityscapes_detectron2",
        ),
    ),
)
