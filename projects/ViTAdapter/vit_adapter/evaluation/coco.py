"""Makes Detectron2's COCO evaluator for any registered data set, on every version supported."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO


def build_coco_evaluator(
    dataset_name: str,
    output_dir: str | None = None,
    *,
    tasks: Sequence[str] | None = None,
    distributed: bool = True,
    max_dets_per_image: int | None = None,
) -> COCOEvaluator:
    """Return an evaluator of box and mask AP in percent.

    Args:
        dataset_name: name in Detectron2's catalogs; data that generate themselves are generated.
        output_dir: folder for the predictions and COCO result files, None for no files.
        tasks: some of "bbox", "segm", "keypoints"; None takes them from the predictions, but only
            "bbox" for data known to have no masks.
        distributed: gather the predictions of all processes.
        max_dets_per_image: detections that count in each image, None for COCO's 100.
    """
    metadata = MetadataCatalog.get(dataset_name)
    json_file = metadata.get("json_file")
    if tasks is None and metadata.get("mask_format", "unknown") is None:
        tasks = ("bbox",)  # COCO's evaluation of masks fails where the truth has none
    if json_file is not None and not os.path.isfile(json_file):
        DatasetCatalog.get(dataset_name)  # writes generated data; names what is missing of others
    evaluator = COCOEvaluator(
        dataset_name,
        tuple(tasks) if tasks is not None else None,
        distributed,
        output_dir,
        max_dets_per_image=max_dets_per_image,
        use_fast_impl=_has_compiled_evaluation(),
    )
    _complete_annotations(evaluator._coco_api)
    return evaluator


def _has_compiled_evaluation() -> bool:
    """Return whether Detectron2 has its compiled part; its v0.6 must be told when it has not."""
    try:
        from detectron2 import _C
    except ImportError:
        return False
    return hasattr(_C, "COCOevalEvaluateImages")


def _complete_annotations(coco: COCO) -> None:
    """Amend, in memory, what makes COCO's evaluation fail or go wrong on files of other tools.

    ``iscrowd`` and ``area`` may be absent. An annotation whose id is 0 would count as never found,
    because pycocotools notes the id of the match of each detection and takes 0 for none.
    """
    for number, annotation in enumerate(coco.dataset.get("annotations", ()), start=1):
        annotation["id"] = number
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            annotation["area"] = _area(coco, annotation)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        coco.createIndex()


def _area(coco: COCO, annotation: dict[str, Any]) -> float:
    """Return the pixels of the mask, without one the area of the box, as COCO defines ``area``."""
    if annotation.get("segmentation"):
        return float(coco.annToMask(annotation).sum())
    return float(annotation["bbox"][2] * annotation["bbox"][3])
