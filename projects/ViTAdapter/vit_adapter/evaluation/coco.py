"""Detectron2's COCO evaluator for any registered data set, in every supported version."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vit_adapter.data.instances.coco_file import read_coco_json, temporary_json
from vit_adapter.data.instances.coco_values import complete_annotations, normalise
from vit_adapter.data.panoptic.classes import thing_ids
from vit_adapter.evaluation.segments_as_instances import segments_as_instances

_logger = logging.getLogger(__name__)


def build_coco_evaluator(
    dataset_name: str,
    output_dir: str | None = None,
    *,
    tasks: Sequence[str] | None = None,
    distributed: bool = True,
    max_dets_per_image: int | None = None,
) -> COCOEvaluator:
    """Return an evaluator of box and mask AP in percent.

    Annotations are read as by ``register_coco_format``. For a test set without annotations,
    predictions are written but not evaluated. For panoptic data, see
    :mod:`vit_adapter.data.panoptic.classes`, the things are evaluated: against the file of
    instances if the metadata name one (``json_file``), otherwise against the segments.

    Args:
        dataset_name: name in Detectron2's catalogs. Generated data sets are generated if missing.
        output_dir: folder for predictions and COCO result files; None for no files.
        tasks: some of "bbox", "segm", "keypoints"; None takes them from the predictions, or only
            "bbox" if some objects have no mask.
        distributed: gather the predictions of all processes.
        max_dets_per_image: number of detections that count per image; None for COCO's 100.
    """
    metadata = MetadataCatalog.get(dataset_name)
    json_file = metadata.get("json_file")
    options = dict(
        distributed=distributed,
        output_dir=output_dir,
        max_dets_per_image=max_dets_per_image,
        use_fast_impl=_has_compiled_evaluation(),
    )
    with_segments = not distributed or comm.is_main_process()
    content = read_truth(dataset_name, with_segments=with_segments)
    if content is None:  # Detectron2 writes such a file itself
        records = DatasetCatalog.get(dataset_name)
        annotations = [a for record in records for a in record.get("annotations", ())]
        return _CocoEvaluator(
            dataset_name, tasks or _tasks_of(annotations, dataset_name), **options
        )
    if json_file is not None:
        tasks = tasks or _tasks_of(content.get("annotations", ()), dataset_name)
    return _evaluator(content, metadata, tasks, options)


def read_truth(dataset_name: str, *, with_segments: bool = True) -> dict[str, Any] | None:
    """Return the content of a COCO file with the objects that are to be found.

    Args:
        dataset_name: name in Detectron2's catalogs. Generated data sets are generated if missing.
        with_segments: whether to read the segment maps of panoptic data without such a file.

    Returns:
        The content with usual types; None for a data set without a COCO file.
    """
    metadata = MetadataCatalog.get(dataset_name)
    json_file = metadata.get("json_file")
    if json_file is None:
        if not metadata.get("panoptic_json"):
            return None
        content = segments_as_instances(metadata, with_annotations=with_segments)
    else:
        if not os.path.isfile(json_file):
            DatasetCatalog.get(dataset_name)  # generates data; raises if other files are missing
        content = read_coco_json(Path(json_file))
        normalise(content)
    complete_annotations(content)
    return content


def _evaluator(
    content: dict[str, Any],
    metadata: Metadata,
    tasks: Sequence[str] | None,
    options: Mapping[str, Any],
) -> COCOEvaluator:
    """Return an evaluator whose truth is ``content``."""
    with _registered(content, metadata.name) as name:
        evaluator = _CocoEvaluator(name, tasks, **options)
    # The classes may only become known when the data are loaded.
    evaluator._metadata = metadata
    if metadata.get("panoptic_json"):
        positions = {label: position for position, label in enumerate(thing_ids(metadata.name))}
        labels = metadata.thing_dataset_id_to_contiguous_id
        things = Metadata(
            name=metadata.name,
            thing_classes=[metadata.stuff_classes[label] for label in positions],
            thing_dataset_id_to_contiguous_id={i: positions[k] for i, k in labels.items()},
        )
        evaluator.use_things(positions, things)
    return evaluator


def _tasks_of(
    annotations: Sequence[Mapping[str, Any]], dataset_name: str
) -> tuple[str, ...] | None:
    """Return only "bbox" if an object has no mask, since COCO's mask evaluation would fail."""
    missing = sum(not annotation.get("segmentation") for annotation in annotations)
    if not missing:
        return None
    _logger.warning(
        "%d of %d annotations of %s have no masks: only boxes are evaluated.",
        missing,
        len(annotations),
        dataset_name,
    )
    return ("bbox",)


class _CocoEvaluator(COCOEvaluator):
    """Also gives metrics if the model predicts nothing: 0 where there are objects.

    The AP of each class has the right name, whatever the order of the classes' ids.
    """

    _positions: Mapping[int, int] | None = None

    def use_things(self, positions: Mapping[int, int], metadata: Metadata) -> None:
        """Evaluate the things of a panoptic model, which counts them together with stuff.

        Args:
            positions: class index of the model -> position among the things.
            metadata: of the things alone.
        """
        self._positions, self._metadata = positions, metadata

    def reset(self) -> None:
        super().reset()
        self._predicts_masks = False

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        super().process(inputs, outputs)
        instances = [output["instances"] for output in outputs if "instances" in output]
        self._predicts_masks |= any(found.has("pred_masks") for found in instances)

    def evaluate(self, img_ids: Sequence[int | str] | None = None) -> dict[str, Any]:
        if self._distributed:
            self._predicts_masks = any(comm.all_gather(self._predicts_masks))
        return super().evaluate(img_ids)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int | str] | None = None
    ) -> None:
        for result in (r for p in predictions for r in p["instances"] if self._positions):
            label = result["category_id"]
            if label not in self._positions:
                raise ValueError(
                    f"The model predicts an instance of class {label} in image "
                    f"{result['image_id']}, but the things of the data set are "
                    f"{list(self._positions)}. Set the model's thing_classes."
                )
            result["category_id"] = self._positions[label]
        super()._eval_predictions(predictions, img_ids)

    def _tasks_from_predictions(self, predictions: list[dict[str, Any]]) -> list[str]:
        tasks = set(super()._tasks_from_predictions(predictions))
        return sorted(tasks | {"segm"} if self._predicts_masks else tasks)

    def _derive_coco_results(
        self,
        coco_eval: COCOeval | None,
        iou_type: str,
        class_names: Sequence[str] | None = None,
    ) -> dict[str, float]:
        # Without predictions, Detectron2 would leave out the classes and return NaN.
        if coco_eval is None and iou_type != "keypoints":
            _logger.warning("The model predicted no object in any image (%s).", iou_type)
            coco_eval = _evaluate_nothing(self._coco_api, iou_type)
        labels = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if class_names and labels:  # Detectron2 expects names in the order of COCO's results, by id
            class_names = [class_names[labels[identifier]] for identifier in sorted(labels)]
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def _evaluate_nothing(truth: COCO, iou_type: str) -> COCOeval:
    predictions = COCO()
    predictions.dataset = {**truth.dataset, "annotations": []}
    with contextlib.redirect_stdout(io.StringIO()):  # these calls print
        predictions.createIndex()
        evaluation = COCOeval(truth, predictions, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@contextlib.contextmanager
def _registered(content: dict[str, Any], dataset_name: str) -> Iterator[str]:
    """Register metadata with which Detectron2 can read ``content`` while the block runs."""
    name = f"{dataset_name}, normalised"
    with temporary_json(content, "annotations.json") as json_file:
        MetadataCatalog.get(name).json_file = json_file
        try:
            yield name
        finally:
            MetadataCatalog.remove(name)


def _has_compiled_evaluation() -> bool:
    """Whether Detectron2 has its compiled extension; v0.6 must be told if it does not."""
    try:
        from detectron2 import _C
    except ImportError:
        return False
    return hasattr(_C, "COCOevalEvaluateImages")
