"""The downloads of six data sets: layout, official numbers of images, and label values.

Paths are those that the archives have when they are unpacked below the data root, but for those
without a folder of their own: COCO-Stuff 10K goes to ``coco_stuff_10k/``, the pixel maps of
COCO-Stuff 164K to ``coco/stuffthingmaps/``, and Mapillary Vistas to ``mapillary_vistas/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from vit_adapter.data.semantic.preparation.convert import Conversion, Part
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL, read_label_set

_COCO_STUFF_SITE = "https://github.com/nightrome/cocostuff"
_CITYSCAPES_SITE = "https://www.cityscapes-dataset.com/downloads/"
_VOC_2010 = "VOCtrainval_03-May-2010.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2010/"
_PREPARED = "_detectron2"


@dataclass(frozen=True)
class PreparedSet:
    """What a tool does.

    Attributes:
        title: of the data set.
        layout: what has to lie where below the data root, for ``--help``.
        jobs: gives the parts and their conversions for a data root.
    """

    title: str
    layout: str
    jobs: Callable[[Path], list[tuple[Part, Conversion]]]


def _ade20k(root: Path) -> list[tuple[Part, Conversion]]:
    root = root / "ADEChallengeData2016"
    origin = (
        "ADEChallengeData2016.zip of http://data.csail.mit.edu/places/ADEchallenge/"
        "ADEChallengeData2016.zip"
    )
    conversion = Conversion(read_label_set("ade20k").lookup_table(256), frozenset(range(151)))
    return [
        (
            Part(
                name=split,
                images=root / "images" / split,
                labels=root / "annotations" / split,
                target=root / f"annotations{_PREPARED}" / split,
                count=count,
                image_origin=origin,
                label_origin=origin,
            ),
            conversion,
        )
        for split, count in (("training", 20_210), ("validation", 2_000))
    ]


def _cityscapes(root: Path) -> list[tuple[Part, Conversion]]:
    root = root / "cityscapes"
    # The official training labels are drawn from the same polygons in the same order.
    conversion = Conversion(read_label_set("cityscapes").lookup_table(256), frozenset(range(34)))
    return [
        (
            Part(
                name=split,
                images=root / "leftImg8bit" / split,
                labels=root / "gtFine" / split,
                target=root / "gtFine" / split,
                count=count,
                image_origin=f"leftImg8bit_trainvaltest.zip of {_CITYSCAPES_SITE}",
                label_origin=f"gtFine_trainvaltest.zip of {_CITYSCAPES_SITE}",
                image_suffix="_leftImg8bit.png",
                label_suffix="_gtFine_labelIds.png",
                target_suffix="_gtFine_labelTrainIds.png",
            ),
            conversion,
        )
        for split, count in (("train", 2_975), ("val", 500))
    ]


def _coco_stuff_10k(root: Path) -> list[tuple[Part, Conversion]]:
    root = root / "coco_stuff_10k"
    origin = "cocostuff-10k-v1.1.zip of https://github.com/nightrome/cocostuff10k"
    conversion = Conversion(
        read_label_set("coco_stuff").lookup_table(256), frozenset(range(183)), mat_key="S"
    )
    return [
        (
            Part(
                name=split,
                images=root / "images",
                labels=root / "annotations",
                target=root / f"annotations{_PREPARED}",
                count=count,
                image_origin=origin,
                label_origin=origin,
                names_file=root / "imageLists" / f"{split}.txt",
                label_suffix=".mat",
            ),
            conversion,
        )
        for split, count in (("train", 9_000), ("test", 1_000))
    ]


def _coco_stuff_164k(root: Path) -> list[tuple[Part, Conversion]]:
    root = root / "coco"
    conversion = Conversion(
        read_label_set("coco_stuff").lookup_table(256, offset=1),
        frozenset([*range(182), IGNORE_LABEL]),
    )
    return [
        (
            Part(
                name=split,
                images=root / split,
                labels=root / "stuffthingmaps" / split,
                target=root / f"stuffthingmaps{_PREPARED}" / split,
                count=count,
                image_origin=f"{split}.zip of https://cocodataset.org/#download",
                label_origin=f"stuffthingmaps_trainval2017.zip of {_COCO_STUFF_SITE}",
            ),
            conversion,
        )
        for split, count in (("train2017", 118_287), ("val2017", 5_000))
    ]


def _pascal_context(root: Path) -> list[tuple[Part, Conversion]]:
    root = root / "VOCdevkit" / "VOC2010"
    conversion = Conversion(
        read_label_set("pascal_context_59").lookup_table(460),
        frozenset(range(460)),
        mat_key="LabelMap",
    )
    return [
        (
            Part(
                name=split,
                images=root / "JPEGImages",
                labels=root / "trainval",
                target=root / f"context_59{_PREPARED}",
                count=count,
                image_origin=_VOC_2010,
                label_origin="trainval.tar.gz of https://cs.stanford.edu/~roozbeh/pascal-context/",
                names_file=root / "ImageSets" / "Main" / f"{split}.txt",
                label_suffix=".mat",
            ),
            conversion,
        )
        for split, count in (("train", 4_998), ("val", 5_105))
    ]


def _mapillary(root: Path) -> list[tuple[Part, Conversion]]:
    root = root / "mapillary_vistas"
    origin = "the Mapillary Vistas dataset, labels 1.2, of https://www.mapillary.com/dataset/vistas"
    jobs = []
    for name, suffix in (("mapillary_vistas", ""), ("mapillary_vistas_cityscapes", "_cityscapes")):
        table = read_label_set(name).lookup_table(256)
        for split, count in (("training", 18_000), ("validation", 2_000)):
            # Release 2.0 brings the labels of 1.2 along.
            inner = root / split / "v1.2" / "labels"
            part = Part(
                name=f"{split}{' for Cityscapes' if suffix else ''}",
                images=root / split / "images",
                labels=inner if inner.is_dir() else root / split / "labels",
                target=root / split / f"labels{suffix}{_PREPARED}",
                count=count,
                image_origin=origin,
                label_origin=origin,
            )
            jobs.append((part, Conversion(table, frozenset(range(66)))))
    return jobs


SETS: Mapping[str, PreparedSet] = MappingProxyType(
    {
        "ade20k": PreparedSet(
            "ADE20K (150 classes)",
            "ADEChallengeData2016/{images,annotations}/{training,validation}",
            _ade20k,
        ),
        "cityscapes": PreparedSet(
            "Cityscapes (19 classes)",
            "cityscapes/{leftImg8bit,gtFine}/{train,val}/<city>",
            _cityscapes,
        ),
        "coco_stuff_10k": PreparedSet(
            "COCO-Stuff 10K (171 classes)",
            "coco_stuff_10k/{images,annotations,imageLists}",
            _coco_stuff_10k,
        ),
        "coco_stuff_164k": PreparedSet(
            "COCO-Stuff 164K (171 classes)",
            "coco/{train2017,val2017} and coco/stuffthingmaps/{train2017,val2017}",
            _coco_stuff_164k,
        ),
        "pascal_context": PreparedSet(
            "PASCAL-Context (59 of 459 classes)",
            "VOCdevkit/VOC2010/{JPEGImages,ImageSets/Main,trainval}; trainval holds the label maps "
            "(*.mat) of all 459 classes",
            _pascal_context,
        ),
        "mapillary": PreparedSet(
            "Mapillary Vistas 1.2 (65 classes, and the 19 of Cityscapes)",
            "mapillary_vistas/{training,validation}/{images,labels}",
            _mapillary,
        ),
    }
)
"""What ``tools/prepare_<name>.py`` prepare, by name."""
