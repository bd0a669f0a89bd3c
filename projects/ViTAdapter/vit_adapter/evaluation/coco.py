"""Detectron2's COCO evaluator for any registered data set, on every version supported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from vit_adapter.data.coco_file import read_coco_json, temporary_json
from vit_adapter.data.coco_values import complete_annotations, normalise


def build_coco_evaluator(
    dataset_name: str,
    output_dir: str | None = None,
    *,
    tasks: Sequence[str] | None = None,
    distributed: bool = True,
    max_dets_per_image: int | None = None,
) -> COCOEvaluator:
    """Return an evaluator of box and mask AP in percent.

    The annotations are read as ``register_coco_format`` reads them. Of a test set without
    annotations the predictions are written, and nothing is measured.

    Args:
        dataset_name: name in Detectron2's catalogs; data that generate themselves are generated.
        output_dir: folder for the predictions and COCO result files, None for no files.
        tasks: some of "bbox", "segm", "keypoints"; None takes them from the predictions, but only
            "bbox" for data that have no masks.
        distributed: gather the predictions of all processes.
        max_dets_per_image: detections that count in each image, None for COCO's 100.
    """
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    options = dict(
        distributed=distributed,
        output_dir=output_dir,
        max_dets_per_image=max_dets_per_image,
        use_fast_impl=_has_compiled_evaluation(),
    )
    if json_file is None:  # Detectron2 writes such a file itself
        return COCOEvaluator(dataset_name, tasks, **options)
    if not os.path.isfile(json_file):
        DatasetCatalog.get(dataset_name)  # writes generated data; names what is missing of others
    content = read_coco_json(Path(json_file))
    normalise(content)
    complete_annotations(content)
    if tasks is None and not any(a.get("segmentation") for a in content.get("annotations", ())):
        tasks = ("bbox",)  # COCO's evaluation of masks fails where the truth has none
    with _registered(content, dataset_name) as name:
        evaluator = COCOEvaluator(name, tasks, **options)
    # What is known of the classes may come later, when the data are loaded.
    evaluator._metadata = MetadataCatalog.get(dataset_name)
    return evaluator


@contextlib.contextmanager
def _registered(content: dict[str, Any], dataset_name: str) -> Iterator[str]:
    """Give content a name whose metadata Detectron2 can read it by, while the block runs."""
    name = f"{dataset_name}, normalised"
    with temporary_json(content, "annotations.json") as json_file:
        MetadataCatalog.get(name).json_file = json_file
        try:
            yield name
        finally:
            MetadataCatalog.remove(name)


def _has_compiled_evaluation() -> bool:
    """Return whether Detectron2 has its compiled part; its v0.6 must be told when it has not."""
    try:
        from detectron2 import _C
    except ImportError:
        return False
    return hasattr(_C, "COCOevalEvaluateImages")
