"""Metrics of semantic segmentation.

Names and values of the metrics are those of Detectron2 v0.6, but its evaluator is not used. Later
versions leave classes that occur only in predictions out of the mean. It also keeps every
prediction in memory, run-length encoded, and its errors do not name the file whose prediction does
not fit the labels.

Shapes: K classes, H/W sides of the original image.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate
from torch import Tensor

from vit_adapter.data.checks import class_names
from vit_adapter.data.image_io import read_label_map
from vit_adapter.data.semantic.label_checks import check_values, ignore_label
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL
from vit_adapter.evaluation.confusion_matrix import write_confusion_matrix
from vit_adapter.evaluation.per_image import counts_file, write_counts
from vit_adapter.evaluation.shown_images import show

logger = logging.getLogger(__name__)

TASK = "sem_seg"


class SemSegEvaluator(DatasetEvaluator):
    """Counts how often each class is predicted for each labelled class.

    Ignored pixels do not count; an image with no others adds nothing.

    Args:
        dataset_name: name in Detectron2's catalogs; its records have ``sem_seg_file_name``, and its
            metadata ``stuff_classes``.
        output_dir: folder for the confusion matrix and the counts of each image; None for no files.
        distributed: whether to add up the counts of all processes.

    Raises:
        ValueError: there is no such data set, or it has no classes or label files.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True
    ) -> None:
        self._output_dir = output_dir
        self._names = class_names(dataset_name, kind="stuff")
        self._ignore_label = ignore_label(dataset_name)
        records = DatasetCatalog.get(dataset_name)
        missing = [r["file_name"] for r in records if "sem_seg_file_name" not in r]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(records)} images of the data set {dataset_name!r} have no "
                f"'sem_seg_file_name', such as {missing[0]}: they have no semantic labels."
            )
        self._label_files = {r["file_name"]: r["sem_seg_file_name"] for r in records}
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # row: predicted class; column: labelled class
        self._counts = np.zeros((len(self._names), len(self._names)), dtype=np.int64)
        self._per_image: dict[str, np.ndarray] = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """Add images.

        Args:
            inputs: records with ``file_name``.
            outputs: ``"sem_seg"``: scores (K, H, W); the class with the highest score counts.

        Raises:
            ValueError: the scores have another number of classes or another size than the labels,
                or some labels belong to no class; the message names the files.
        """
        for record, output in zip(inputs, outputs, strict=True):
            file_name = record["file_name"]
            label_file = self._label_files[file_name]
            scores = output["sem_seg"]
            if len(scores) != len(self._names):
                raise ValueError(
                    f"The model predicts {len(scores)} classes for {file_name}, but the data set "
                    f"has {len(self._names)}; set the model's num_classes."
                )
            labels = read_label_map(label_file)
            if scores.shape[-2:] != labels.shape:
                sizes = [f"{s[1]} x {s[0]}" for s in (scores.shape[-2:], labels.shape)]
                raise ValueError(
                    f"The prediction for {file_name} has {sizes[0]} pixels (width x height), but "
                    f"the labels {label_file} have {sizes[1]}. Image and labels must have the same "
                    "size, and the mapper must pass on the image's height and width."
                )
            counts = self._count(scores.argmax(dim=0).cpu().numpy(), labels, label_file)
            self._counts += counts
            sums = (counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1))
            self._per_image[file_name] = np.stack(sums, axis=1)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the metrics over all images; all processes must call this.

        The main process also writes the confusion matrix, see
        :mod:`vit_adapter.evaluation.confusion_matrix`, and the counts of each image, see
        :mod:`vit_adapter.evaluation.per_image`.

        Returns:
            ``{"sem_seg": metrics}`` in percent, or None in all processes except the main one.
            ``mIoU`` is the mean over all classes that occur in labels or predictions, ``fwIoU`` the
            mean weighted by labelled pixels. ``pACC`` is the share of correctly predicted pixels,
            ``mACC`` the mean of this share over the labelled classes. ``IoU-<class>`` and
            ``ACC-<class>`` are NaN for classes that do not occur, as are the means without any
            labelled pixel.
        """
        counts, per_image = self._counts, self._per_image
        if self._distributed:
            gathered = comm.all_gather((counts, per_image))
            if not comm.is_main_process():
                return None
            counts = sum(part for part, _ in gathered)
            per_image = {name: part for _, parts in gathered for name, part in parts.items()}
        if self._output_dir is not None and per_image:
            common = os.path.commonpath([os.path.dirname(name) for name in per_image])
            named = {Path(os.path.relpath(n, common)).as_posix(): c for n, c in per_image.items()}
            write_counts(counts_file(Path(self._output_dir), TASK), named, self._names)
        iou, accuracy, metrics = compute_metrics(counts)
        rows = [
            [name, f"{100 * i:.2f}", f"{100 * a:.2f}"]
            for name, i, a in zip(self._names, iou, accuracy, strict=True)
        ]
        headers = ["class", "IoU", "accuracy"]
        table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, stralign="right")
        logger.info("Classes:\n%s", table)
        self._show_confusion(counts.T)
        for key, values in (("IoU", iou), ("ACC", accuracy)):
            for name, value in zip(self._names, values, strict=True):
                metrics[f"{key}-{name}"] = 100 * float(value)
        return {TASK: metrics}

    def _show_confusion(self, counts: np.ndarray) -> None:
        if self._output_dir is None:
            return
        try:
            picture = write_confusion_matrix(counts, self._names, Path(self._output_dir))
        except (OSError, ValueError, RuntimeError) as error:  # not worth a training
            logger.warning("The confusion matrix cannot be written: %s", error)
            return
        show("confusion_matrix", picture)

    def _count(self, predicted: np.ndarray, labels: np.ndarray, label_file: str) -> np.ndarray:
        """Return the confusion matrix (K, K) of one image; both arrays are (H, W)."""
        labels = check_values(labels, len(self._names), label_file, ignore_label=self._ignore_label)
        counted = labels != IGNORE_LABEL
        pairs = predicted[counted] * len(self._names) + labels[counted]
        return np.bincount(pairs, minlength=self._counts.size).reshape(self._counts.shape)


def compute_metrics(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Compute the metrics from a confusion matrix.

    Args:
        counts: (K, K); rows are predicted classes, columns are labelled classes.

    Returns:
        Intersection over union (K,) and accuracy (K,) of each class, as fractions with NaN where a
        class does not occur; and the means in percent.
    """
    sums = np.stack((counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)), axis=-1)
    iou, accuracy, metrics = metrics_of_sums(sums)
    return iou, accuracy, {name: 100 * float(value) for name, value in metrics.items()}


def metrics_of_sums(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Compute the metrics from sums over pixels.

    Args:
        sums: (..., K, 3), the pixels of each class that are right, labelled and predicted.

    Returns:
        Intersection over union (..., K) and accuracy (..., K), as fractions with NaN where a class
        does not occur; and the means (...) as fractions.
    """
    right, labelled, predicted = np.moveaxis(sums.astype(float), -1, 0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: nothing to measure
        iou = right / (labelled + predicted - right)
        accuracy = right / labelled
        metrics = {
            "mIoU": mean_of_existing(iou),
            "fwIoU": np.nansum(iou * labelled, axis=-1) / labelled.sum(-1),
            "mACC": mean_of_existing(accuracy),
            "pACC": right.sum(-1) / labelled.sum(-1),
        }
    return iou, accuracy, metrics


def mean_of_existing(values: np.ndarray) -> np.ndarray:
    """Mean (...) of the values (..., K) that are not NaN; NaN if there are none."""
    exists = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(exists, values, 0).sum(-1) / exists.sum(-1)
