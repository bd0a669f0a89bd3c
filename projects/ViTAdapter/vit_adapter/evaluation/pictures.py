"""Pictures of a few predictions beside their labels, drawn during an evaluation.

Shapes: H/W sides of an image in pixels.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image

from vit_adapter.data.image_io import read_segment_ids
from vit_adapter.data.instances.mapper import CheckedDatasetMapper
from vit_adapter.data.panoptic.classes import thing_ids
from vit_adapter.data.panoptic.mapper import PanopticMapper
from vit_adapter.data.semantic.mapper import SemanticMapper
from vit_adapter.drawing import draw_prediction, draw_targets, montage, save_picture
from vit_adapter.evaluation.shown_images import current_storage, show

__all__ = ["PredictionPictures"]

logger = logging.getLogger(__name__)

_THRESHOLD = 0.5
"""Lowest score of instances that are drawn."""

_KEPT = 5
"""How many evaluations of a training keep their pictures."""

_Record = Mapping[str, Any]


class PredictionPictures(DatasetEvaluator):
    """Draws some images with their labels on the left and the prediction on the right.

    The images are spread evenly over those that the main process evaluates, so every evaluation
    with the same number of processes draws the same ones. The files go to a folder for each
    evaluation, named after the iteration, or ``eval_only`` outside of training. The pictures of the
    last 5 evaluations are kept. The writers of a training run get the pictures as well.

    It returns no metrics. An error while drawing is logged, and ends the drawing alone.

    Args:
        dataset_name: name in Detectron2's catalogs.
        folder: parent of the folders with pictures.
        number: of images.
        num_batches: length of the test loader in this process; one image of a batch is drawn.
        channels: number of channels of images that are read as stored; None for 8 bits.
    """

    def __init__(
        self,
        dataset_name: str,
        folder: Path,
        *,
        number: int,
        num_batches: int,
        channels: int | None = None,
    ) -> None:
        self._name = dataset_name
        self._format = channels or "BGR"
        self._folder = folder
        if not comm.is_main_process():
            number = 0
        # in the middle of equal parts
        self._chosen = {(2 * i + 1) * num_batches // (2 * number) for i in range(number)}
        self._records: dict[str, _Record] = {}

    def reset(self) -> None:
        """Start with the first batch."""
        self._batch = -1
        self._drawn = 0

    def process(self, inputs: Sequence[_Record], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Draw the first image of the batch, if it is one of the chosen.

        Args:
            inputs: records with ``file_name``.
            outputs: the predictions in the frame of the original images.
        """
        self._batch += 1
        if self._batch not in self._chosen:
            return
        try:
            self._draw(inputs[0]["file_name"], outputs[0])
        except Exception as error:  # pictures are not worth a training
            self._chosen = set()
            logger.warning(
                "The predictions for %s cannot be drawn, so there are no more pictures of this "
                "evaluation: %s: %s",
                inputs[0]["file_name"],
                type(error).__name__,
                error,
            )

    def evaluate(self) -> None:
        """Remove the pictures of old evaluations."""
        if self._drawn:
            logger.info("%d pictures of predictions are in %s", self._drawn, self._target())
        done = sorted(path for path in self._folder.glob("[0-9]*") if path.is_dir())
        for old in done[:-_KEPT] if comm.is_main_process() else ():
            shutil.rmtree(old, ignore_errors=True)

    def _target(self) -> Path:
        storage = current_storage()
        return self._folder / ("eval_only" if storage is None else f"{storage.iter:07d}")

    def _draw(self, file_name: str, prediction: Mapping[str, Any]) -> None:
        if not self._records:
            self._records = {r["file_name"]: r for r in DatasetCatalog.get(self._name)}
        image, labels = draw_labels(self._records[file_name], prediction, self._name, self._format)
        metadata = MetadataCatalog.get(self._name)
        drawn, _ = draw_prediction(image, prediction, metadata, _THRESHOLD)
        picture = montage([*labels, drawn])
        name = f"{self._drawn}_{Path(file_name).stem}"
        save_picture(picture, self._target() / f"{name}.jpg")
        show(f"predictions/{name}", picture)
        self._drawn += 1


def draw_labels(
    record: _Record,
    prediction: Mapping[str, Any],
    dataset_name: str,
    image_format: str | int = "BGR",
) -> tuple[np.ndarray, list[Image.Image]]:
    """Read an image and draw the labels that the prediction should equal.

    Args:
        record: of the data set, with its labels.
        prediction: its outputs say of which kind the labels are, in the order of
            :func:`vit_adapter.drawing.draw_prediction`.
        dataset_name: name in Detectron2's catalogs.
        image_format: "BGR", or the number of channels of the image.

    Returns:
        The image (H, W, channels) in this format, and a picture of it with its labels, or none
        if the record has no labels of this kind.
    """
    metadata = MetadataCatalog.get(dataset_name)
    options: dict[str, Any] = dict(augmentations=[], image_format=image_format)
    if "panoptic_seg" in prediction:
        inputs = PanopticMapper(is_train=False, **options)(record)
        image = _pixels(inputs)
        if "pan_seg_file_name" not in record:
            return image, []
        things = set(thing_ids(dataset_name))
        segments = [{**s, "isthing": s["category_id"] in things} for s in record["segments_info"]]
        ids = torch.from_numpy(read_segment_ids(record["pan_seg_file_name"]))
        drawn, _ = draw_prediction(image, {"panoptic_seg": (ids, segments)}, metadata, _THRESHOLD)
        return image, [drawn]
    if "instances" in prediction:
        has_labels = "annotations" in record
        has_masks = has_labels and all(a.get("segmentation") for a in record["annotations"])
        mapper: Any = CheckedDatasetMapper(
            is_train=has_labels,
            use_instance_mask=has_masks,
            instance_mask_format="bitmask",
            **options,
        )
    else:
        has_labels = "sem_seg_file_name" in record
        mapper = SemanticMapper(is_train=has_labels, dataset_names=dataset_name, **options)
    inputs = mapper(record)
    return _pixels(inputs), [draw_targets(inputs, metadata, image_format)] if has_labels else []


def _pixels(inputs: Mapping[str, Any]) -> np.ndarray:
    return inputs["image"].permute(1, 2, 0).numpy()
