"""Pictures of what a model predicts, and of what it learns from, by Detectron2's ``Visualizer``.

Shapes: C channels, H/W sides of an image in pixels.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from vit_adapter.data.seeds import seeded
from vit_adapter.utils.atomic import atomic_open

__all__ = [
    "SEGMENT_OPACITY",
    "as_rgb",
    "channels_as_rgb",
    "draw_labels",
    "draw_prediction",
    "draw_targets",
    "montage",
    "save_picture",
]

# Labels are unreadable on small images, so their pictures are enlarged to this long side (pixels).
_MIN_PICTURE_SIDE = 640
_MAX_JPEG_SIDE = 65_500  # pixels; a limit of libjpeg
_PERCENTILES = (1, 99)  # of a channel, shown as black and as full colour
SEGMENT_OPACITY = 0.6  # opacity of segment colours, which keeps the image visible


@seeded(0)  # the same random colours in every call
@matplotlib.rc_context({"text.parse_math": False})  # class names such as "$5$" are not formulas
def draw_prediction(
    image: np.ndarray, prediction: Mapping[str, Any], metadata: Metadata, threshold: float
) -> tuple[Image.Image, int]:
    """Draw boxes, masks, class names and scores, or the classes of all pixels.

    Args:
        image: as for :func:`as_rgb`.
        prediction: a predictor's result, in the frame of ``image``. Of several outputs
            ``panoptic_seg`` comes first, then ``instances``, then ``sem_seg``.
        metadata: names of the classes; ``stuff_colors`` is the palette of a segmentation.
        threshold: lowest score of instances to draw.

    Returns:
        RGB picture, enlarged if the image is small, and the number of instances, panoptic segments
        or different classes in it.
    """
    visualizer = _visualizer(as_rgb(image), metadata)
    if "panoptic_seg" in prediction:
        ids, segments = prediction["panoptic_seg"]
        drawn = visualizer.draw_panoptic_seg(ids.cpu(), segments, alpha=SEGMENT_OPACITY)
        return Image.fromarray(drawn.get_image()), len(segments)
    if "instances" in prediction:
        instances = prediction["instances"].to("cpu")
        instances = instances[instances.scores >= threshold]
        drawn = visualizer.draw_instance_predictions(instances)
        return Image.fromarray(drawn.get_image()), len(instances)
    return draw_labels(image, prediction["sem_seg"].argmax(dim=0), metadata)


@seeded(0)
@matplotlib.rc_context({"text.parse_math": False})
def draw_labels(
    image: np.ndarray, labels: torch.Tensor, metadata: Metadata
) -> tuple[Image.Image, int]:
    """Draw the classes of all pixels.

    Args:
        image: as for :func:`as_rgb`.
        labels: (H, W), the class of each pixel.
        metadata: names of the classes; ``stuff_colors`` is the palette.

    Returns:
        RGB picture, enlarged if the image is small, and the number of different classes.
    """
    drawn = _visualizer(as_rgb(image), metadata).draw_sem_seg(labels.cpu(), alpha=SEGMENT_OPACITY)
    return Image.fromarray(drawn.get_image()), len(labels.unique())


@seeded(0)
@matplotlib.rc_context({"text.parse_math": False})
def draw_targets(
    inputs: Mapping[str, Any], metadata: Metadata, image_format: str | int
) -> Image.Image:
    """Draw an image of a training batch, as the model gets it, with its labels.

    Args:
        inputs: a mapper's result: ``image`` (C, H, W) with ``instances``, which have
            ``gt_classes`` and perhaps ``gt_boxes`` and ``gt_masks``, or with ``sem_seg`` (H, W).
        metadata: names of the classes; ``stuff_colors`` is the palette of semantic labels.
        image_format: of ``image``, such as "BGR", or its number of channels.

    Returns:
        RGB picture, enlarged if the image is small.
    """
    image = inputs["image"].permute(1, 2, 0).cpu().numpy()
    if isinstance(image_format, int):
        image = channels_as_rgb(image)
    else:
        image = convert_image_to_rgb(image, image_format)
    visualizer = _visualizer(np.clip(image, 0, 255).astype(np.uint8), metadata)
    if "instances" not in inputs:
        drawn = visualizer.draw_sem_seg(inputs["sem_seg"].cpu(), alpha=SEGMENT_OPACITY)
        return Image.fromarray(drawn.get_image())
    instances = inputs["instances"].to("cpu")
    names = metadata.get("thing_classes") or metadata.get("stuff_classes")
    drawn = visualizer.overlay_instances(
        boxes=instances.gt_boxes if instances.has("gt_boxes") else None,
        masks=instances.gt_masks if instances.has("gt_masks") else None,
        labels=[names[index] for index in instances.gt_classes.tolist()],
    )
    return Image.fromarray(drawn.get_image())


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Show an image of a predictor as colours.

    Args:
        image: (H, W, 3) uint8, BGR, or floats with any number of channels (H, W, C).

    Returns:
        (H, W, 3) uint8; floats are shown by :func:`channels_as_rgb`.
    """
    return image[:, :, ::-1] if image.dtype == np.uint8 else channels_as_rgb(image)


def channels_as_rgb(image: np.ndarray) -> np.ndarray:
    """Show an image with any number of channels as colours.

    The first three channels become red, green and blue; of one or two channels the mean is shown as
    grey. The values from the 1st to the 99th percentile of each fill the range.

    Args:
        image: (H, W, C), any numbers.

    Returns:
        (H, W, 3) uint8.
    """
    shown = np.nan_to_num(image.astype(np.float32), posinf=0, neginf=0)
    shown = shown[..., :3] if image.shape[2] >= 3 else shown.mean(axis=2, keepdims=True)
    low, high = np.percentile(shown, _PERCENTILES, axis=(0, 1))
    scaled = (shown - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return np.broadcast_to(255 * np.clip(scaled, 0, 1), (*image.shape[:2], 3)).astype(np.uint8)


def montage(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Arrange pictures on one white sheet, row by row, as square as possible.

    Args:
        pictures: at least one; every cell has the size of the largest picture.
        gap: pixels between two cells.
    """
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    cell_width = max(picture.width for picture in pictures) + gap
    cell_height = max(picture.height for picture in pictures) + gap
    sheet = Image.new("RGB", (columns * cell_width - gap, rows * cell_height - gap), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * cell_width, row * cell_height))
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture so that ``path`` never holds an incomplete file; make its folder.

    Raises:
        ValueError: the picture is too large for a JPEG file.
        OSError: the file cannot be written.
    """
    file_format = Image.registered_extensions()[path.suffix.lower()]
    if file_format == "JPEG" and max(picture.size) > _MAX_JPEG_SIDE:
        raise ValueError(
            f"{path} cannot be written: a JPEG file has at most {_MAX_JPEG_SIDE} pixels on a side, "
            f"and the picture has {picture.width} x {picture.height} (width x height). Let the "
            "name end in .png, or use fewer or smaller images."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path, "wb", flush=False) as stream:
        picture.save(stream, format=file_format)


def _visualizer(image: np.ndarray, metadata: Metadata) -> Visualizer:
    """Return Detectron2's class for an RGB image (H, W, 3)."""
    scale = max(1.0, _MIN_PICTURE_SIDE / max(image.shape[:2]))
    return Visualizer(image, metadata, scale=scale)
