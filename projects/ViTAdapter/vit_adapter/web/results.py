"""What the page shows of a prediction: pictures, a table, and entries of a JSON file.

Shapes: H/W height and width of the image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as run_length

from vit_adapter.drawing import as_rgb, draw_labels, draw_prediction
from vit_adapter.evaluation.coco_results import coco_results
from vit_adapter.predictor import LazyPredictor

__all__ = [
    "MIN_SCORE",
    "VIEWS",
    "VIEWS_OF_PIXELS",
    "Result",
    "draw",
    "entries",
    "predict",
    "table",
    "views",
]

MIN_SCORE = 0.05
"""Detections with lower scores are not kept."""

VIEWS = ("Panoptic", "Boxes and masks", "Boxes", "Masks", "Semantic")
"""All ways to show a prediction."""

VIEWS_OF_PIXELS = ("Panoptic", "Semantic")
"""Those that divide all pixels, whatever the lowest score is."""


@dataclass(frozen=True)
class Result:
    """The prediction for one image, in a small form that can be kept for each visitor.

    Attributes:
        title: names the image and the model.
        image: as it is shown, (H, W, 3) uint8, BGR.
        metadata: names and colours of the classes.
        found: entries in COCO's format of results, by output of the model: "instances",
            "panoptic_seg" or "sem_seg". Only the outputs that the model has.
        instances: the detections without masks, best first, as in ``found``.
        panoptic: the segment of each pixel (H, W), and a dict for each segment.
        labels: the class of each pixel (H, W).
    """

    title: str
    image: np.ndarray
    metadata: Metadata
    found: Mapping[str, list[dict[str, Any]]]
    instances: Instances | None = None
    panoptic: tuple[torch.Tensor, list[dict[str, Any]]] | None = None
    labels: torch.Tensor | None = None


def predict(predictor: LazyPredictor, image: np.ndarray, *, file_name: str, model: str) -> Result:
    """Predict on an image.

    Args:
        predictor: the model.
        image: in the predictor's ``image_format``.
        file_name: of the image.
        model: name of the model.

    Raises:
        ValueError, TypeError: the image cannot be used; see ``LazyPredictor``.
    """
    prediction = predictor(image)
    outputs: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    if "panoptic_seg" in prediction:
        ids, segments = prediction["panoptic_seg"]
        outputs["panoptic_seg"] = kept["panoptic"] = (ids.cpu(), segments)
    elif "sem_seg" in prediction:
        outputs["sem_seg"] = prediction["sem_seg"]
        kept["labels"] = prediction["sem_seg"].argmax(dim=0).to("cpu", torch.int16)
    if "instances" in prediction:
        instances = prediction["instances"].to("cpu")
        instances = instances[instances.scores >= MIN_SCORE]
        instances = instances[instances.scores.argsort(descending=True, stable=True)]
        outputs["instances"] = instances
        kept["instances"] = Instances(instances.image_size, **instances.get_fields())
        if instances.has("pred_masks"):
            kept["instances"].remove("pred_masks")
    found = {
        name: coco_results(
            {name: output}, predictor.metadata, MIN_SCORE, image_id=1, file_name=file_name
        )
        for name, output in outputs.items()
    }
    shown = as_rgb(image)[:, :, ::-1]
    return Result(f"{file_name}, {model}", shown, predictor.metadata, found, **kept)


def views(result: Result) -> list[str]:
    """Return those of ``VIEWS`` that fit a result."""
    detections = result.found.get("instances")
    with_masks = bool(detections) and "segmentation" in detections[0]
    fits = {
        "Panoptic": result.panoptic is not None,
        "Boxes and masks": with_masks,
        "Boxes": detections is not None,
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
        prediction = {"instances": _instances(result, view, threshold)}
    return draw_prediction(image, prediction, metadata, threshold)[0]


def entries(result: Result, view: str, threshold: float) -> list[dict[str, Any]]:
    """Return what a view shows as data, in COCO's format of results; see ``coco_results``.

    The arguments are those of :func:`draw`.
    """
    if view == "Semantic":
        return result.found["sem_seg"]
    if view == "Panoptic":
        return result.found["panoptic_seg"]
    return [entry for entry in result.found["instances"] if entry["score"] >= threshold]


def table(shown: Sequence[Mapping[str, Any]], view: str) -> tuple[list[str], list[list[Any]]]:
    """Return the headers and the rows of a table of what :func:`entries` returned for a view."""
    if view == "Semantic":
        return ["class", "pixels"], [[_name(entry), _pixels(entry)] for entry in shown]
    if view == "Panoptic":
        rows = [
            [
                _name(entry),
                "thing" if entry["isthing"] else "stuff",
                round(entry["score"], 3) if "score" in entry else "",
                _pixels(entry),
            ]
            for entry in shown
        ]
        return ["class", "kind", "score", "pixels"], rows
    rows = [
        [_name(entry), round(entry["score"], 3), *(round(value, 1) for value in entry["bbox"])]
        for entry in shown
    ]
    return ["class", "score", "x", "y", "width", "height"], rows


def _instances(result: Result, view: str, threshold: float) -> Instances:
    """Return the detections of a view in the form that the drawing takes."""
    size = result.image.shape[:2]
    instances = result.instances[result.instances.scores >= threshold]
    if view != "Boxes":
        best = result.found["instances"][: len(instances)]  # both are in the order of the scores
        masks = [run_length.decode(entry["segmentation"]) for entry in best]
        instances.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *size))
    if view == "Masks":
        instances.remove("pred_boxes")
    return instances


def _name(entry: Mapping[str, Any]) -> str:
    return entry["category_name"] or str(entry["category_id"])


def _pixels(entry: Mapping[str, Any]) -> int:
    return int(run_length.area(entry["segmentation"]))
