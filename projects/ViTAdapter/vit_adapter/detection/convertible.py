"""Detectors that can be converted to 16 bits."""

from typing import Any

from detectron2.structures import ImageList

from vit_adapter.layers.converted import Float32Statistics, in_dtype_of_weights


class ConvertibleDetector(Float32Statistics):
    """Comes before one of Detectron2's detectors among the bases of a class."""

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise images in float32, pad and batch them, and convert them for the backbone.

        Args:
            batched_inputs: Detectron2's input dicts.
        """
        images = super().preprocess_image(batched_inputs)
        images.tensor = in_dtype_of_weights(images.tensor, self.backbone)
        return images
