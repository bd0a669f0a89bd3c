"""Predictions in COCO's format of results.

Shapes: H/W sides of the image in pixels.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from pycocotools import mask as mask_util
from torch import Tensor

__all__ = ["coco_results"]

_Entry = dict[str, Any]


def coco_results(
    prediction: Mapping[str, Any],
    metadata: Metadata,
    threshold: float,
    *,
    image_id: int | str,
    file_name: str,
) -> list[_Entry]:
    """Return what is predicted for an image as entries that JSON can hold.

    Args:
        prediction: a predictor's result. Of several outputs ``panoptic_seg`` comes first, then
            ``instances``, then ``sem_seg``, as in a drawing.
        metadata: names of the classes, and their ids in the data set.
        threshold: lowest score of instances.
        image_id, file_name: of the image.

    Returns:
        An entry for each instance, panoptic segment or class with pixels: ``image_id``,
        ``file_name``, ``category_id``, ``category_name``; ``segmentation``, the mask (H, W) as RLE;
        ``score`` of instances and segments; ``bbox`` (x, y, width, height) of instances; and
        ``isthing`` of segments. ``category_id`` is that of the data set, or the index of the class
        if the metadata have no ids.
    """
    if "panoptic_seg" in prediction:
        found, kind = _of_segments(*prediction["panoptic_seg"]), "stuff"
    elif "instances" in prediction:
        found, kind = _of_instances(prediction["instances"].to("cpu"), threshold), "thing"
    else:
        found, kind = _of_classes(prediction["sem_seg"].argmax(dim=0).cpu()), "stuff"
    indexes = metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
    if "panoptic_seg" in prediction:
        indexes = {**(metadata.get("thing_dataset_id_to_contiguous_id") or {}), **indexes}
    identifiers = {index: identifier for identifier, index in indexes.items()}
    names = metadata.get(f"{kind}_classes")
    common = {"image_id": image_id, "file_name": file_name}
    return [
        {
            **common,
            "category_id": identifiers.get(label, label),
            "category_name": names[label] if names else None,
            **entry,
        }
        for label, entry in found
    ]


def _of_instances(found: Instances, threshold: float) -> Iterator[tuple[int, _Entry]]:
    found = found[found.scores >= threshold]
    boxes = found.pred_boxes.tensor.clone()
    boxes[:, 2:] -= boxes[:, :2]
    for index in range(len(found)):
        entry = {"bbox": boxes[index].tolist(), "score": float(found.scores[index])}
        if found.has("pred_masks"):
            entry["segmentation"] = _encode(found.pred_masks[index])
        yield int(found.pred_classes[index]), entry


def _of_segments(ids: Tensor, segments: list[_Entry]) -> Iterator[tuple[int, _Entry]]:
    ids = ids.cpu()
    for segment in segments:
        entry: _Entry = {"isthing": bool(segment["isthing"])}
        if "score" in segment:
            entry["score"] = float(segment["score"])
        yield segment["category_id"], entry | {"segmentation": _encode(ids == segment["id"])}


def _of_classes(labels: Tensor) -> Iterator[tuple[int, _Entry]]:
    for label in torch.unique(labels).tolist():
        yield label, {"segmentation": _encode(labels == label)}


def _encode(mask: Tensor) -> _Entry:
    rle = mask_util.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
