"""A predictor for the tests of the demo tool, which need no model, and what they share."""

from pathlib import Path

import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

import vit_adapter

TOOL = Path(vit_adapter.__file__).parents[1] / "tools" / "demo.py"
CONFIG = "quick_start/mask_rcnn_vit_adapter_shapes"


class FakePredictor:
    """Finds one object in every image: its left half, with a score of 0.7."""

    image_format = "BGR"
    metadata = Metadata(thing_classes=["half"])

    def __init__(self, config, weights, overrides):
        self.arguments = (config, weights, overrides)

    def __call__(self, image):
        height, width = image.shape[:2]
        masks = torch.zeros(1, height, width, dtype=torch.bool)
        masks[:, :, : width // 2] = True
        instances = Instances(
            (height, width),
            pred_boxes=Boxes(torch.tensor([[0.0, 0.0, width / 2, height]])),
            scores=torch.tensor([0.7]),
            pred_classes=torch.tensor([0]),
            pred_masks=masks,
        )
        return {"instances": instances}


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
