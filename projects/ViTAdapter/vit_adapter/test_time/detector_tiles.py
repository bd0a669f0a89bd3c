"""Testing detectors on large images, tile by tile.

The class wraps any model that maps Detectron2's ``batched_inputs`` to ``[{"instances": ...}]``, and
is such a model itself, e.g. ``DetectorTiles(DetectorViews(model, ...), ...)``.

Shapes: N instances, C channels, H/W sides of the image, h/w sides of a tile.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import Tensor, nn

from vit_adapter.data.aug_input import AugInput
from vit_adapter.test_time.joining import Tile, join
from vit_adapter.test_time.parts import Inputs, check_mode, windows

__all__ = ["DetectorTiles"]

_FIELDS = {"pred_boxes", "scores", "pred_classes", "pred_masks"}


class DetectorTiles(nn.Module):
    """Detects objects in overlapping tiles, and joins those that borders of tiles cut.

    Each tile is tested as an image of its own: resized as such, and with the model's own limit of
    detections. Tiles run through the model one at a time. The input image should be the original.
    Objects are joined by :func:`~vit_adapter.test_time.joining.join`, which compares them where
    tiles overlap: the overlap should be as large as most objects.

    With a single tile, the result is exactly that of the model on the whole image.

    Args:
        model: a detector; the wrapper takes over its mode.
        size: (height, width) of a tile in pixels of the original image, >= 2.
        overlap: (vertical, horizontal) overlap of neighbours in pixels, from 0 (nothing is joined)
            to less than the side of a tile. The last tile of a row or column overlaps more, since
            it ends at the border.
        min_iou: least IoU of the boxes of one object in the area that two tiles share, in (0, 1].
        augmentations: how a tile is resized for the model.

    Attributes:
        model: the detector that is applied to each tile.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        size: Sequence[int],
        overlap: Sequence[int],
        min_iou: float = 0.5,
        augmentations: Sequence[T.Augmentation] = (),
    ) -> None:
        super().__init__()
        if len(size) != 2 or len(overlap) != 2 or min(size) < 2:
            raise ValueError(
                "size and overlap must be (height, width) each, in pixels, with sides of at least "
                f"2, got {list(size)} and {list(overlap)}"
            )
        if any(not 0 <= shared < side for shared, side in zip(overlap, size, strict=True)):
            raise ValueError(
                "overlap must be at least 0 and less than the side of a tile, "
                f"got size {list(size)} and overlap {list(overlap)}"
            )
        if not 0 < min_iou <= 1:
            raise ValueError(f"min_iou must be in (0, 1], got {min_iou}")
        self.model = model
        self.size = tuple(size)
        self.overlap = tuple(overlap)
        self.min_iou = min_iou
        self._augmentations = T.AugmentationList(list(augmentations))
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: Inputs) -> list[dict[str, Instances]]:
        """Detect objects.

        Args:
            batched_inputs: ``"image"`` (C, H, W). ``"height"`` and ``"width"``, if present,
                are H and W.

        Returns:
            For each image ``{"instances": Instances}`` in its frame, best first: ``pred_boxes``,
            ``scores``, ``pred_classes``, and ``pred_masks`` (N, H, W) bool if the model has masks.

        Raises:
            RuntimeError: the wrapper is in training mode.
            TypeError: the model predicts something else than boxes and masks.
            ValueError: the image was resized.
        """
        check_mode(self)
        return [{"instances": self._detect(inputs)} for inputs in batched_inputs]

    def _detect(self, inputs: Mapping[str, Any]) -> Instances:
        image = inputs["image"]
        height, width = image.shape[-2:]
        original = (inputs.get("height", height), inputs.get("width", width))
        if original != (height, width):
            raise ValueError(
                f"the image has {width} x {height} pixels (width x height), but the original has "
                f"{original[1]} x {original[0]}. Tiles are cut from the original image: leave out "
                "what resizes it in the mapper."
            )
        rows, columns = (
            windows(side, tile, tile - shared)
            for side, tile, shared in zip((height, width), self.size, self.overlap, strict=True)
        )
        tiles: list[Tile] = [
            (column.start, row.start, column.stop, row.stop) for row in rows for column in columns
        ]
        found = [self._detect_in_tile(image[:, y0:y1, x0:x1]) for x0, y0, x1, y1 in tiles]
        return join(found, tiles, size=(height, width), min_iou=self.min_iou)

    def _detect_in_tile(self, tile: Tensor) -> Instances:
        height, width = tile.shape[-2:]
        resized = AugInput(np.ascontiguousarray(tile.permute(1, 2, 0).cpu().numpy()))
        self._augmentations(resized)
        shown = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        (output,) = self.model([{"image": shown.to(tile.device), "height": height, "width": width}])
        fields = set(output["instances"].get_fields()) if "instances" in output else set(output)
        if "instances" not in output or not fields <= _FIELDS:
            raise TypeError(
                f"the model predicts {sorted(fields)}, expected instances with {sorted(_FIELDS)}"
            )
        return output["instances"]
