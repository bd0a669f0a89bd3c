"""A detector whose training images all have one size."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.structures import ImageList

from vit_adapter.detection.two_stage import TwoStageDetector


class PaddedRCNN(TwoStageDetector):
    """Detectron2's two-stage detector with training images padded to a fixed size.

    Padding follows normalisation, with zeros at the bottom and right, and boxes are still clipped
    to the images without it. Larger images and test images are padded as usual: to a multiple of
    the backbone's stride.

    Args:
        train_size: (height, width) in pixels, at least 1 each.
        options: of ``GeneralizedRCNN``.

    Raises:
        ValueError: the size is not two numbers of at least 1.
    """

    def __init__(self, *, train_size: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        if len(train_size) != 2 or min(train_size) < 1:
            raise ValueError(f"train_size must be (height, width), both >= 1, got {train_size}")
        self.train_size = tuple(train_size)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, pad and batch the images of Detectron2's input dicts."""
        images = super().preprocess_image(batched_inputs)
        if self.training:
            missing = [
                max(wanted - side, 0)
                for wanted, side in zip(self.train_size, images.tensor.shape[-2:], strict=True)
            ]
            images.tensor = F.pad(images.tensor, (0, missing[1], 0, missing[0]))
        return images
