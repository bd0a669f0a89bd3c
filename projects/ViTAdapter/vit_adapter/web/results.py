"""What the page shows of a prediction: pictures, a table, and entries of a JSON file.

Shapes: H/W height and width of the image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as run_length

from vit_adapter.drawing import draw_labels, draw_prediction
from vit_adapter.predictor import LazyPredictor

__all__ = ["MIN_SCORE", "VIEWS", "Result", "draw", "entries", "predict", "table", "views"]

MIN_SCORE = 0.05
"""Detections with lower scores are not kept."""

VIEWS = ("Panoptic", "Boxes and masks", "Boxes", "Masks", "Semantic")
"""All ways to show a prediction."""

_COLUMNS = {  # of the table: header -> key of an entry
    "instances": {"class": "category", "score": "score"},
    "Panoptic": {"class": "category", "kind": "kind", "score": "score", "pixels": "area"},
    "Semantic": {"class": "category", "pixels": "area"},
}


@dataclass(frozen=True)
class Result:
    """The prediction for one image, in a small form that can be kept for each visitor.

    Attributes:
        title: names the image and the model.
        image: (H, W, 3) uint8, BGR.
        metadata: names and colours of the classes.
        detections: entries in the form of COCO's results, best first; None if the model has none.
        panoptic: the segment of each pixel (H, W), and a dict for each segment; or None.
        labels: the class of each pixel (H, W); or None.
    """

    title: str
    image: np.ndarray
    metadata: Metadata
    detections: list[dict[str, Any]] | None = None
    panoptic: tuple[torch.Tensor, list[dict[str, Any]]] | None = None
    labels: torch.Tensor | None = None


def predict(predictor: LazyPredictor, image: np.ndarray, *, title: str) -> Result:
    """Predict on an image.

    Args:
        predictor: the model.
        image: (H, W, 3) uint8, BGR.
        title: names the image and the model.

    Raises:
        ValueError, TypeError: the image cannot be used; see ``LazyPredictor``.
    """
    prediction = predictor(image)
    found: dict[str, Any] = {}
    if "panoptic_seg" in prediction:
        ids, segments = prediction["panoptic_seg"]
        found["panoptic"] = (ids.cpu(), segments)
    elif "sem_seg" in prediction:
        found["labels"] = prediction["sem_seg"].argmax(dim=0).to("cpu", torch.int16)
    if "instances" in prediction:
        names = predictor.metadata.get("thing_classes")
        found["detections"] = _detections(prediction["instances"], names)
    return Result(title, image, predictor.metadata, **found)


def views(result: Result) -> list[str]:
    """Return those of ``VIEWS`` that fit a result."""
    with_masks = bool(result.detections) and "segmentation" in result.detections[0]
    fits = {
        "Panoptic": result.panoptic is not None,
        "Boxes and masks": with_masks,
        "Boxes": result.detections is not None,
        "Masks": with_masks,
        "Semantic": result.labels is not None,
    }
    return [view for view in VIEWS if fits[view]]


def draw(result: Result, view: str, threshold: float) -> Image.Image:
    """Draw a prediction.

    Args:
        result: from :func:`predict`.
        view: one of ``views(result)``.
        threshold: lowest score of boxes and masks.

    Returns:
        RGB picture, enlarged if the image is small.
    """
    image, metadata = result.image, result.metadata
    if view == "Semantic":
        return draw_labels(image, result.labels, metadata)[0]
    if view == "Panoptic":
        prediction = {"panoptic_seg": result.panoptic}
    else:
        shown = entries(result, view, threshold)
        prediction = {"instances": _instances(shown, image.shape[:2], view)}
    return draw_prediction(image, prediction, metadata, threshold)[0]


def entries(result: Result, view: str, threshold: float) -> list[dict[str, Any]]:
    """Return what a view shows as data, in the form of COCO's results.

    The arguments are those of :func:`draw`.

    Returns:
        One dict for each detection, panoptic segment or class, with ``category_id``, the model's
        class index, and ``category``, its name. Detections have ``bbox`` (x, y, width, height) in
        pixels and ``score``. Whatever has pixels has ``segmentation``, a run-length code.
    """
    if view == "Semantic":
        return _classes(result.labels.numpy(), result.metadata)
    if view == "Panoptic":
        return _segments(*result.panoptic, result.metadata)
    return [found for found in result.detections if found["score"] >= threshold]


def table(shown: Sequence[Mapping[str, Any]], view: str) -> tuple[list[str], list[list[Any]]]:
    """Return the headers and the rows of a table of what :func:`entries` returned for a view."""
    columns = _COLUMNS.get(view, _COLUMNS["instances"])
    rows = [[_cell(entry.get(key, "")) for key in columns.values()] for entry in shown]
    if view in _COLUMNS:
        return list(columns), rows
    boxes = [[round(value, 1) for value in entry["bbox"]] for entry in shown]
    headers = [*columns, "x", "y", "width", "height"]
    return headers, [row + box for row, box in zip(rows, boxes, strict=True)]


def _cell(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _detections(instances: Instances, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the entries of a detector's output, best first."""
    instances = instances[instances.scores >= MIN_SCORE].to("cpu")
    instances = instances[instances.scores.argsort(descending=True, stable=True)]
    corners = instances.pred_boxes.tensor
    boxes = BoxMode.convert(corners, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    found = [
        {"category_id": label, "category": _name(names, label), "bbox": box, "score": score}
        for label, box, score in zip(
            instances.pred_classes.tolist(), boxes, instances.scores.tolist(), strict=True
        )
    ]
    if instances.has("pred_masks"):
        for entry, mask in zip(found, instances.pred_masks.numpy(), strict=True):
            entry["segmentation"] = _encode(mask)
    return found


def _segments(
    ids: torch.Tensor, segments: Sequence[Mapping[str, Any]], metadata: Metadata
) -> list[dict[str, Any]]:
    pixels = ids.numpy()
    masks = [pixels == segment["id"] for segment in segments]
    return [
        {
            "category_id": segment["category_id"],
            "category": _name(metadata.get("stuff_classes"), segment["category_id"]),
            "kind": "thing" if segment["isthing"] else "stuff",
            **({"score": segment["score"]} if "score" in segment else {}),
            "area": int(mask.sum()),
            "segmentation": _encode(mask),
        }
        for segment, mask in zip(segments, masks, strict=True)
    ]


def _classes(labels: np.ndarray, metadata: Metadata) -> list[dict[str, Any]]:
    """Return an entry for each class that occurs, the largest first."""
    present, areas = np.unique(labels, return_counts=True)
    return [
        {
            "category_id": int(present[index]),
            "category": _name(metadata.get("stuff_classes"), present[index]),
            "area": int(areas[index]),
            "segmentation": _encode(labels == present[index]),
        }
        for index in np.argsort(-areas, kind="stable")
    ]


def _instances(shown: Sequence[Mapping[str, Any]], size: tuple[int, int], view: str) -> Instances:
    """Return detections in the form that the drawing takes."""
    corners = torch.tensor([entry["bbox"] for entry in shown]).reshape(-1, 4)
    instances = Instances(
        size,
        scores=torch.tensor([entry["score"] for entry in shown]),
        pred_classes=torch.tensor([entry["category_id"] for entry in shown], dtype=torch.long),
    )
    if view != "Masks":
        corners[:, 2:] += corners[:, :2]
        instances.pred_boxes = Boxes(corners)
    if view != "Boxes":
        masks = [run_length.decode(entry["segmentation"]) for entry in shown]
        instances.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *size))
    return instances


def _encode(mask: np.ndarray) -> dict[str, Any]:
    """Return the run-length code of a mask (H, W), as JSON can hold it."""
    code = run_length.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


def _name(names: Sequence[str] | None, label: int) -> str:
    return names[label] if names else str(label)
