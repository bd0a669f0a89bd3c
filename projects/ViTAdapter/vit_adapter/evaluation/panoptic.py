"""Evaluator of panoptic segmentation.

Detectron2's evaluator needs ``panopticapi``, which does not install beside NumPy 2, and keeps every
prediction in memory. Names and values of the metrics are the same.

Shapes: H/W sides of the original image in pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from tabulate import tabulate

from vit_adapter.data.checks import class_names
from vit_adapter.data.image_io import read_segment_ids
from vit_adapter.data.panoptic.classes import thing_ids
from vit_adapter.data.panoptic.segments import only_on_one_side, segment_indexes
from vit_adapter.evaluation.coco import build_coco_evaluator
from vit_adapter.evaluation.panoptic_quality import Quality, compute_quality, count_segments
from vit_adapter.evaluation.per_image import counts_file, write_counts

logger = logging.getLogger(__name__)

TASK = "panoptic_seg"


def build_panoptic_evaluator(
    dataset_name: str,
    output_dir: str | None = None,
    *,
    instances: bool = True,
    distributed: bool = True,
    max_dets_per_image: int | None = None,
) -> DatasetEvaluator:
    """Return an evaluator of panoptic quality and, in the same run, of box and mask AP.

    Args:
        dataset_name: name of a panoptic data set in Detectron2's catalogs.
        output_dir: folder for counts of each image, predicted instances and COCO result files; None
            for no files.
        instances: whether the model also predicts instances, which are evaluated if the data set
            has things.
        distributed: whether to gather the results of all processes.
        max_dets_per_image: number of instances that count per image; None for COCO's 100.
    """
    evaluator = PanopticEvaluator(dataset_name, output_dir, distributed=distributed)
    if not instances or not thing_ids(dataset_name):
        return evaluator
    options: dict[str, Any] = dict(distributed=distributed, max_dets_per_image=max_dets_per_image)
    return DatasetEvaluators([evaluator, build_coco_evaluator(dataset_name, output_dir, **options)])


class PanopticEvaluator(DatasetEvaluator):
    """Computes PQ, SQ and RQ; see :mod:`vit_adapter.evaluation.panoptic_quality`.

    Args:
        dataset_name: name in Detectron2's catalogs; its records have ``image_id``,
            ``pan_seg_file_name`` and ``segments_info``, and
            :mod:`vit_adapter.data.panoptic.classes` describes its metadata.
        output_dir: folder for the counts of each image, see
            :mod:`vit_adapter.evaluation.per_image`; None for no file.
        distributed: whether to add up the counts of all processes.

    Raises:
        ValueError: there is no such data set, or it has no classes or panoptic labels.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True
    ) -> None:
        self._output_dir = output_dir
        self._names = class_names(dataset_name, kind="stuff")
        self._is_thing = np.isin(np.arange(len(self._names)), thing_ids(dataset_name))
        records = DatasetCatalog.get(dataset_name)
        missing = [r["file_name"] for r in records if "pan_seg_file_name" not in r]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(records)} images of the data set {dataset_name!r} have no "
                f"'pan_seg_file_name', such as {missing[0]}: they have no panoptic labels."
            )
        self._labels = {r["image_id"]: r for r in records}
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._per_image: dict[str, np.ndarray] = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add images.

        Args:
            inputs: records with ``file_name`` and ``image_id``.
            outputs: ``"panoptic_seg"``: segment ids (H, W), 0 for none, and for each segment a
                dict with its ``id`` and its class index ``category_id``.

        Raises:
            ValueError: map and list do not have the same segments, or another size or other classes
                than the labels; the message names the file.
        """
        for record, output in zip(inputs, outputs, strict=True):
            label = self._labels[record["image_id"]]
            ids, segments = output["panoptic_seg"]
            ids, true_ids = ids.cpu().numpy(), read_segment_ids(label["pan_seg_file_name"])
            if ids.shape != true_ids.shape:
                sizes = [f"{shape[1]} x {shape[0]}" for shape in (ids.shape, true_ids.shape)]
                raise ValueError(
                    f"The prediction for {record['file_name']} has {sizes[0]} pixels (width x "
                    f"height), but the labels {label['pan_seg_file_name']} have {sizes[1]}. Image "
                    "and labels must have the same size, and the mapper must pass on the image's "
                    "height and width."
                )
            self._check_segments(ids, segments, record["file_name"])
            self._per_image[str(record["image_id"])] = count_segments(
                ids, segments, true_ids, label["segments_info"], len(self._names)
            )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the metrics over all images; all processes must call this.

        Returns:
            ``{"panoptic_seg": metrics}`` in percent, or None in all processes except the main one.
            ``PQ``, ``SQ`` and ``RQ`` are means over the classes that occur in labels or
            predictions, ``PQ_th`` and so on over those of things, ``PQ_st`` and so on over those
            of stuff, and ``PQ-<class>`` and so on belong to one class. What does not occur is NaN.
        """
        per_image = self._per_image
        if self._distributed:
            gathered = comm.all_gather(per_image)
            if not comm.is_main_process():
                return None
            per_image = {image: part for parts in gathered for image, part in parts.items()}
        if self._output_dir is not None:
            write_counts(counts_file(Path(self._output_dir), TASK), per_image, self._names)
        quality = compute_quality(sum(per_image.values(), np.zeros((len(self._names), 4))))
        metrics: dict[str, float] = {}
        everything = np.ones_like(self._is_thing)
        for suffix, chosen in (("", everything), ("_th", self._is_thing), ("_st", ~self._is_thing)):
            for key, values in zip(("PQ", "SQ", "RQ"), quality, strict=True):
                metrics[f"{key}{suffix}"] = _mean_percent(values[chosen])
        for key, values in zip(("PQ", "SQ", "RQ"), quality, strict=True):
            for name, value in zip(self._names, values, strict=True):
                metrics[f"{key}-{name}"] = 100 * float(value)
        self._log_classes(quality)
        return {TASK: metrics}

    def _check_segments(
        self, ids: np.ndarray, segments: Sequence[Mapping[str, Any]], file_name: str
    ) -> None:
        """Check that the predicted map (H, W) and list agree, as the official evaluation does."""
        unknown = sorted({s["category_id"] for s in segments} - set(range(len(self._names))))
        if unknown:
            raise ValueError(
                f"The prediction for {file_name} has the classes {unknown}, but the data set has "
                f"{len(self._names)} classes, 0 to {len(self._names) - 1}; set the model's "
                "num_classes."
            )
        unlisted, empty = only_on_one_side(ids, segment_indexes(ids, segments), segments)
        if unlisted or empty:
            raise ValueError(
                f"The prediction for {file_name} has the segments {unlisted} only in its map, and "
                f"{empty} only in its list. Both must have the same segments; 0 stands for none."
            )

    def _log_classes(self, quality: Quality) -> None:
        rows = [
            [name, "thing" if is_thing else "stuff", *(f"{100 * value:.2f}" for value in values)]
            for name, is_thing, *values in zip(self._names, self._is_thing, *quality, strict=True)
        ]
        headers = ["class", "kind", "PQ", "SQ", "RQ"]
        table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, stralign="right")
        logger.info("Classes:\n%s", table)


def _mean_percent(values: np.ndarray) -> float:
    """Mean in percent of the values that are not NaN; NaN if there are none."""
    values = values[~np.isnan(values)]
    return 100 * float(values.mean()) if len(values) else float("nan")
