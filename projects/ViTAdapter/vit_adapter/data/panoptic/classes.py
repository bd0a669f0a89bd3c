"""The classes of panoptic data sets.

Things and stuff share one range of class indices, 0 to K - 1, which are the classes that a model
predicts. In Detectron2's metadata,

- ``stuff_classes`` has the names of all K classes, those of things included, in this order;
- the values of ``thing_dataset_id_to_contiguous_id`` are the indices of the things;
- ``thing_classes`` has the names of all K classes, too, or only those of the things if the things
  come first. Either way an index finds its name.

Detectron2's "standard" COCO data and its Cityscapes data are registered like this. The
"separated" data, which count things and stuff each from 0, are not used.
"""

from __future__ import annotations

from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from vit_adapter.data.checks import class_names


def thing_ids(dataset_name: str) -> list[int]:
    """Return the class indices of the things of a panoptic data set, sorted.

    Raises:
        ValueError: there is no such data set, its classes are unknown, or things and stuff do not
            share one range of indices.
    """
    count = len(class_names(dataset_name, kind="stuff"))
    things = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
    if things is None:
        raise ValueError(
            f"The data set {dataset_name!r} has no thing_dataset_id_to_contiguous_id, which says "
            f"which classes are things. Set it in MetadataCatalog.get({dataset_name!r})."
        )
    indices = sorted(things.values())
    names = class_names(dataset_name, kind="thing") if indices else []
    outside = [index for index in indices if not 0 <= index < count]
    if outside or (names and len(names) not in (len(indices), count)):
        raise ValueError(
            f"The data set {dataset_name!r} has {count} stuff_classes, {len(names)} thing_classes "
            f"and the things {indices}, but panoptic data need stuff_classes with the names of all "
            "classes, and indices of things among them."
        )
    return indices


def check_same_things(train_name: str, test_name: str) -> None:
    """Raise a ValueError if a category is a thing in one of two panoptic data sets only."""
    train, test = (MetadataCatalog.get(name) for name in (train_name, test_name))
    is_thing = [_is_thing(train), _is_thing(test)]
    names = class_names(train_name, kind="stuff")
    index = train.stuff_dataset_id_to_contiguous_id | train.thing_dataset_id_to_contiguous_id
    differing = [
        f"{category} ({names[index[category]]!r}, {int(kind)} in {train_name!r})"
        for category, kind in is_thing[0].items()
        if is_thing[1].get(category, kind) != kind
    ]
    if differing:
        files = [metadata.get("panoptic_json") for metadata in (train, test)]
        raise ValueError(
            f"'isthing' of the categories {', '.join(differing)} differs between {files[0]} and "
            f"{files[1]}. Give each category the same 'isthing' in both files."
        )


def _is_thing(metadata: Metadata) -> dict[int, bool]:
    """Whether each category id is a thing."""
    stuff, things = (
        dict.fromkeys(metadata.get(f"{kind}_dataset_id_to_contiguous_id"), kind == "thing")
        for kind in ("stuff", "thing")
    )
    return stuff | things
