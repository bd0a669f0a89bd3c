"""Models for the tests of the page, which need no files and no time."""

from pathlib import Path

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image

CLASSES = Metadata(thing_classes=["half"], stuff_classes=["left", "right"])


class Halves:
    """Finds the left half of an image with a score of 0.7, and the right half with 0.3."""

    metadata = CLASSES

    def __call__(self, image: np.ndarray) -> dict:
        height, width = image.shape[:2]
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, :, : width // 2] = masks[1, :, width // 2 :] = True
        edges = [[0, 0, width / 2, height], [width / 2, 0, width, height]]
        instances = Instances(
            (height, width),
            pred_boxes=Boxes(torch.tensor(edges)),
            scores=torch.tensor([0.7, 0.3]),
            pred_classes=torch.tensor([0, 0]),
            pred_masks=masks,
        )
        return {"instances": instances}


class Sides:
    """Finds one class on the left of an image and another one on the right."""

    metadata = CLASSES

    def __call__(self, image: np.ndarray) -> dict:
        scores = torch.zeros(2, *image.shape[:2])
        scores[0, :, : image.shape[1] // 2] = 2
        scores[1] = 1
        return {"sem_seg": scores}


class FakeModels:
    """A detector, two segmentors, one of them for five channels, and one that cannot be loaded."""

    names = ["halves", "sides", "five", "broken"]

    def image_format(self, name: str) -> str | int:
        return 5 if name == "five" else "BGR"

    def get(self, name: str) -> Halves | Sides:
        if name == "broken":
            raise ValueError("the weights do not fit <the model>")
        return Halves() if name == "halves" else Sides()


def write_uploads(folder: Path) -> dict[str, Path]:
    """Write an image, one that is too large for 1 megapixel, a broken one and a text."""
    files = {name: folder / name for name in ("good.png", "large.png", "broken.png", "notes.txt")}

    Image.new("RGB", (60, 40), (90, 120, 150)).save(files["good.png"])
    Image.new("RGB", (1200, 1000)).save(files["large.png"])
    files["broken.png"].write_bytes(files["good.png"].read_bytes()[:60])
    files["notes.txt"].write_text("not an image")
    return files
