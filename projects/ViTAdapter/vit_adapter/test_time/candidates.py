"""The candidates of detectors before NMS, and masks for boxes that are given.

Any detector that follows Detectron2's conventions can be used:

- It keeps its test settings under Detectron2's names, in any of its modules: the number of
  detections as ``test_topk_per_image`` or ``max_detections_per_image``, and, if it removes
  overlapping boxes, the threshold as ``test_nms_thresh``.
- In evaluation mode it returns ``[{"instances": Instances}]`` with boxes, scores and classes.
- If it predicts masks, it is a ``GeneralizedRCNN``, and its heads have ``mask_on`` and
  ``forward_with_given_boxes`` like Detectron2's.

Shapes: N candidates or boxes, C channels, H/W sides of the image, M side of a predicted mask.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

__all__ = [
    "check_detector",
    "find_candidates",
    "has_masks",
    "max_detections",
    "nms_threshold",
    "predict_masks",
]

Features = Mapping[str, Tensor]

_NMS = "test_nms_thresh"
_MOST = ("test_topk_per_image", "max_detections_per_image")
_MASKS = "mask_on"
# Values with which a detector with NMS returns all its candidates
_OPEN = {_NMS: 2.0} | dict.fromkeys(_MOST, sys.maxsize)
_FIELDS = ("pred_boxes", "scores", "pred_classes")


def check_detector(model: nn.Module) -> None:
    """Raise a TypeError if the candidates of a model cannot be reached."""
    if not any(_settings(model, name) for name in _MOST):
        raise TypeError(
            f"the model is a {type(model).__name__}, expected a detector that keeps its number of "
            f"detections as {_MOST[0]} or {_MOST[1]}, as Detectron2's detectors do"
        )
    if any(_settings(model, "keypoint_on")):
        raise TypeError("the model predicts keypoints, expected one with boxes or masks only")
    if isinstance(model, GeneralizedRCNN):
        if model.proposal_generator is None:
            raise TypeError(
                "the model reads its proposals from files, expected one that makes them"
            )
    elif has_masks(model):
        raise TypeError(
            f"the model is a {type(model).__name__} with masks, but only a GeneralizedRCNN can "
            "predict masks for boxes of several views. Use a model without masks."
        )


def nms_threshold(model: nn.Module) -> float | None:
    """Return the IoU above which a detector removes a box; None if it never does."""
    found = _settings(model, _NMS)
    return found[-1] if found and found[-1] < 1 else None  # of the last stage


def max_detections(model: nn.Module) -> int:
    """Return the largest number of detections of an image; negative for no limit."""
    return [value for name in _MOST for value in _settings(model, name)][-1]


def has_masks(model: nn.Module) -> bool:
    """Whether a detector predicts masks."""
    return any(_settings(model, _MASKS))


def find_candidates(model: nn.Module, image: Tensor) -> tuple[Instances, Features]:
    """Return all boxes whose score exceeds the model's own threshold; NMS is left out.

    A detector without NMS returns its detections, since its limit takes the place of NMS.

    Args:
        model: a detector that :func:`check_detector` accepts, in evaluation mode.
        image: (C, H, W).

    Returns:
        N instances with ``pred_boxes``, ``scores`` and ``pred_classes`` in the frame of the image,
        and the feature maps for :func:`predict_masks`, which are empty for a model without masks.

    Raises:
        TypeError: the model predicts something else than boxes, scores and classes.
    """
    with _open(model):
        found, features = _detect(model, image)
    if set(found.get_fields()) != set(_FIELDS):
        raise TypeError(
            f"the {type(model).__name__} predicts {sorted(found.get_fields())}, expected "
            f"{sorted(_FIELDS)}, and masks only if {_MASKS} is set"
        )
    return found, features


def predict_masks(
    model: GeneralizedRCNN,
    features: Features,
    boxes: Tensor,
    image_size: tuple[int, int],
    found: Instances,
) -> Tensor:
    """Return the masks (N, 1, M, M) of given boxes as probabilities, each in the frame of its box.

    Args:
        model: a detector with masks.
        features: of the image, from :func:`find_candidates`.
        boxes: (N, 4) in the frame of the image.
        image_size: (H, W).
        found: N instances with the classes and scores of the boxes.
    """
    given = Instances(
        image_size, pred_boxes=Boxes(boxes), scores=found.scores, pred_classes=found.pred_classes
    )
    (given,) = model.roi_heads.forward_with_given_boxes(features, [given])
    return given.pred_masks


def _detect(model: nn.Module, image: Tensor) -> tuple[Instances, Features]:
    """Run a detector as its ``forward`` does, if possible without the postprocessing there."""
    if not isinstance(model, (GeneralizedRCNN, DenseDetector)):
        (output,) = model([{"image": image}])
        return output["instances"], {}
    images = model.preprocess_image([{"image": image}])
    features = model.backbone(images.tensor)
    if isinstance(model, GeneralizedRCNN):
        proposals, _ = model.proposal_generator(images, features, None)
        (found,), _ = model.roi_heads(images, features, proposals, None)
        return found, features
    inputs = [features[name] for name in model.head_in_features]
    (found,) = model.forward_inference(images, inputs, model.head(inputs))
    return found, {}


def _settings(model: nn.Module, name: str) -> list[Any]:
    """Return what the modules of a model keep under a name."""
    return [vars(module)[name] for module in model.modules() if name in vars(module)]


@contextmanager
def _open(model: nn.Module) -> Iterator[None]:
    """Let a detector return its candidates, without masks."""
    values = {_MASKS: False} | (_OPEN if nms_threshold(model) is not None else {})
    kept = []
    for module in model.modules():
        for name in values.keys() & vars(module).keys():
            kept.append((module, name, vars(module)[name]))
            setattr(module, name, values[name])
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
