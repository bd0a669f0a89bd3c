"""Reading the results that an evaluation has left behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vit_adapter.comparison.settings import Settings, find_config, read_settings
from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import load_config
from vit_adapter.config.own_data import register_test_data
from vit_adapter.config.tasks import thing_classes
from vit_adapter.data.instances.coco_file import read_coco_json
from vit_adapter.data.instances.coco_values import complete_annotations, normalise
from vit_adapter.evaluation.coco import read_truth
from vit_adapter.evaluation.per_image import ImageCounts, counts_file, read_counts

__all__ = ["Result", "read_results"]

_PREDICTIONS = "coco_instances_results.json"
_COUNTED_TASKS = ("sem_seg", "panoptic_seg")


@dataclass(frozen=True)
class Result:
    """What is known of an evaluation.

    Attributes:
        source: the folder or file that it was read from.
        predictions: in COCO's format of results; None if no instances were predicted.
        truth: the content of a COCO file with the objects; None without predictions.
        max_detections: most detections of a class that count in an image.
        counts: of each image, for "sem_seg" and "panoptic_seg".
        things: which classes of panoptic data are things.
        settings: of the training and the evaluation; None if they are not known.
    """

    source: Path
    predictions: Sequence[Mapping[str, Any]] | None
    truth: Mapping[str, Any] | None
    max_detections: int
    counts: Mapping[str, ImageCounts]
    things: Sequence[int] = ()
    settings: Settings | None = None


def read_results(source: Path, annotations: Path | None = None) -> Result:
    """Read the output folder of an evaluated run, or a file of predictions.

    Args:
        source: the folder, or a JSON file in COCO's format of results.
        annotations: COCO file with the objects; by default that of the folder's config.

    Raises:
        UsageError: there are no results, or the objects are not known.
        FileNotFoundError: a file does not exist.
        ValueError: a file is damaged.
    """
    if source.is_file():
        if annotations is None:
            raise UsageError(
                f"{source} holds only predictions; give the COCO file with the objects, too: "
                "--annotations FILE."
            )
        return Result(source, _read_predictions(source), _read_annotations(annotations), 100, {})
    if not source.is_dir():
        raise FileNotFoundError(f"{source} does not exist; give a run's output folder or a file")
    folder = source / "inference"
    files = {task: counts_file(folder, task) for task in _COUNTED_TASKS}
    counts = {task: read_counts(path) for task, path in files.items() if path.is_file()}
    path = folder / _PREDICTIONS
    if not counts and not path.is_file():
        names = ", ".join([_PREDICTIONS, *(path.name for path in files.values())])
        raise UsageError(
            f"{folder} has none of the results {names}. Evaluate the run with this version: "
            f"train_net.py --config-file {source} --eval-only."
        )
    predictions = truth = None
    max_detections = 100
    things: tuple[int, ...] = ()
    if "panoptic_seg" in counts or path.is_file():
        cfg = _read_config(source)
        if "panoptic_seg" in counts:
            things = tuple(thing_classes(cfg)[1])
    if path.is_file():
        predictions = _read_predictions(path)
        truth = _test_truth(cfg, source) if annotations is None else _read_annotations(annotations)
        max_detections = (cfg.dataloader.evaluator or {}).get("max_dets_per_image") or 100
    settings = read_settings(source)
    return Result(source, predictions, truth, max_detections, counts, things, settings)


def _read_config(folder: Path) -> DictConfig:
    """Return the config of an output folder."""
    file = find_config(folder)
    if file is None:
        raise UsageError(
            f"{folder} has no config.yaml, which says what data the results belong to; give the "
            f"file of predictions and its objects instead: {folder / 'inference' / _PREDICTIONS} "
            "--annotations FILE."
        )
    return load_config(file)


def _test_truth(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Return the objects of the test data of an output folder, as the content of a COCO file."""
    try:
        names = register_test_data(cfg)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the test data of {folder} cannot be read, give --annotations FILE: {error}"
        ) from error
    if len(names) != 1:
        raise UsageError(f"the config of {folder} names {len(names)} test data sets, expected one.")
    truth = read_truth(names[0])
    if truth is None:
        raise UsageError(
            f"the data set {names[0]!r} of {folder} has no COCO file; give --annotations FILE."
        )
    return truth


def _read_predictions(path: Path) -> list[dict[str, Any]]:
    try:
        predictions = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    keys = {"image_id", "category_id", "score"}
    is_list = isinstance(predictions, list)
    if not is_list or any(not isinstance(p, dict) or not keys <= p.keys() for p in predictions):
        raise UsageError(
            f"{path} is not in COCO's format of results, a list of objects with {sorted(keys)}."
        )
    return predictions


def _read_annotations(path: Path) -> dict[str, Any]:
    content = read_coco_json(path)
    normalise(content)
    complete_annotations(content)
    return content
