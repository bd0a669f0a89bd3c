"""The candidates of Detectron2's detectors before NMS, and masks for boxes that are given.

Shapes: N candidates or boxes, H/W sides of the image, M side of a predicted mask.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

__all__ = ["check_detector", "find_candidates", "has_masks", "own_setting", "predict_masks"]

Features = Mapping[str, Tensor]

# The names under which Detectron2's detectors keep these settings, and values that suppress nothing
_NMS = "test_nms_thresh"
_MOST = ("test_topk_per_image", "max_detections_per_image")
_OPEN = {_NMS: 2.0} | dict.fromkeys(_MOST, sys.maxsize)


def check_detector(model: nn.Module) -> None:
    """Raise a TypeError if the candidates of a model cannot be reached."""
    known = isinstance(model, (GeneralizedRCNN, DenseDetector))
    if not known or not any(_NMS in vars(module) for module in model.modules()):
        raise TypeError(
            f"the model is a {type(model).__name__}, expected a GeneralizedRCNN or a DenseDetector "
            "of Detectron2 that removes overlapping boxes by NMS"
        )
    if isinstance(model, GeneralizedRCNN):
        if model.proposal_generator is None:
            raise TypeError(
                "the model reads its proposals from files, expected one that makes them"
            )
        if getattr(model.roi_heads, "keypoint_on", False):
            raise TypeError("the model predicts keypoints, expected one with boxes or masks only")


def own_setting(model: nn.Module, *names: str) -> float:
    """Return a setting of a detector under the first of its possible names; of the last stage."""
    found = [
        vars(module)[name] for module in model.modules() for name in names if name in vars(module)
    ]
    return found[-1]


def has_masks(model: nn.Module) -> bool:
    """Whether a detector predicts masks."""
    return isinstance(model, GeneralizedRCNN) and bool(getattr(model.roi_heads, "mask_on", False))


def find_candidates(model: nn.Module, image: Tensor) -> tuple[Instances, Features]:
    """Return all boxes whose score exceeds the model's own threshold; NMS is left out.

    Args:
        model: a detector that :func:`check_detector` accepts, in evaluation mode.
        image: (3, H, W).

    Returns:
        N instances with ``pred_boxes``, ``scores`` and ``pred_classes`` in the frame of the image,
        and the feature maps for :func:`predict_masks`.
    """
    images = model.preprocess_image([{"image": image}])
    features = model.backbone(images.tensor)
    with _open(model):
        if isinstance(model, GeneralizedRCNN):
            proposals, _ = model.proposal_generator(images, features, None)
            (found,), _ = model.roi_heads(images, features, proposals, None)
        else:
            inputs = [features[name] for name in model.head_in_features]
            (found,) = model.forward_inference(images, inputs, model.head(inputs))
    fields = {name: found.get(name) for name in ("pred_boxes", "scores", "pred_classes")}
    return Instances(found.image_size, **fields), features


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


@contextmanager
def _open(model: nn.Module) -> Iterator[None]:
    """Let a detector return all its candidates, without masks."""
    kept = []
    for module in model.modules():
        values = _OPEN | {"mask_on": False}
        for name in values.keys() & vars(module).keys():
            kept.append((module, name, vars(module)[name]))
            setattr(module, name, values[name])
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
