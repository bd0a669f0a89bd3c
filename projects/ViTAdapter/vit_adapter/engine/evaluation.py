"""Evaluating a model, and showing and saving the results."""

import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from detectron2.config import instantiate
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.utils import comm
from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn

from vit_adapter.checkpoint import run_files
from vit_adapter.config.input_channels import stored_channels
from vit_adapter.config.test_time import loader_for_testing, wrap_for_testing
from vit_adapter.data.workers import protect_workers, start_workers
from vit_adapter.engine.ema import WeightAverage
from vit_adapter.engine.parallel import share_buffers, whole_model
from vit_adapter.evaluation.pictures import PredictionPictures
from vit_adapter.utils.atomic import atomic_open

__all__ = ["evaluate", "format_results", "write_results"]

logger = logging.getLogger(__name__)

_AVERAGED = "_ema"
"""End of the names of tasks that are evaluated with the moving average of the weights."""

_TASK_NAMES = {
    "bbox": "box",
    "segm": "mask",
    "sem_seg": "semantic",
    "panoptic_seg": "panoptic",
}

Results = Mapping[str, Mapping[str, float]]


def evaluate(
    cfg: DictConfig,
    model: nn.Module,
    *,
    training: bool = False,
    average: WeightAverage | None = None,
    before_batch: Callable[[], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Run the evaluator of the config on its test data; all processes take part.

    The main process logs the metrics as ``print_csv_format`` does and as a table, and writes them
    to ``results.json`` in ``cfg.train.output_dir``. Results of training there are kept, see
    :func:`write_results`. It also draws ``cfg.train.eval_pictures`` of the predictions.

    Args:
        cfg: ``dataloader.test`` and ``dataloader.evaluator`` are instantiated;
            :func:`vit_adapter.config.test_time.wrap_for_testing` reads ``test``.
        model: in any mode, which is restored afterwards.
        training: whether this evaluation is part of the training run that writes to that folder.
        average: of the weights of ``model``, which is evaluated after them. Its tasks are called
            ``bbox_ema`` and so on. Files of predictions are those of the last evaluation.
        before_batch: called before each batch of images; an exception ends the evaluation.

    Returns:
        Task -> metric -> value, as Detectron2's evaluators give them (AP in percent); empty if
        the config has no evaluator, and in all but the main process.
    """
    if cfg.dataloader.get("evaluator") is None or cfg.dataloader.get("test") is None:
        logger.warning("The config has no test data or no evaluator, so nothing is evaluated.")
        return {}
    results = _run_evaluator(cfg, model, before_batch)
    if average is not None:
        logger.info("Evaluating the moving average (EMA) of the weights.")
        with average.applied():
            averaged = _run_evaluator(cfg, model, before_batch)
        results |= {f"{task}{_AVERAGED}": metrics for task, metrics in averaged.items()}
    if not comm.is_main_process():
        return {}
    print_csv_format(results)
    if results:
        logger.info("Results:\n%s", format_results(results))
    else:
        logger.warning(
            "The evaluator returned no metrics, as for a test set without annotations. Any "
            "predictions are in the files that it writes."
        )
    write_results(results, cfg.train.output_dir, training=training)
    return results


def _run_evaluator(
    cfg: DictConfig, model: nn.Module, before_batch: Callable[[], None] | None
) -> dict[str, dict[str, float]]:
    """Return the metrics of a model; empty in all but the main process."""
    # The forward pass in training waits for every process, but some have fewer images here.
    with whole_model(model) as inner:
        share_buffers(inner)
        loader = instantiate(loader_for_testing(cfg))
        protect_workers(loader)
        if before_batch is not None:
            loader = _Watched(loader, before_batch)
        evaluator = _with_pictures(cfg, instantiate(cfg.dataloader.evaluator), len(loader))
        return dict(inference_on_dataset(wrap_for_testing(cfg, inner), loader, evaluator))


def _with_pictures(
    cfg: DictConfig, evaluator: DatasetEvaluator, num_batches: int
) -> DatasetEvaluator:
    """Add an evaluator that draws ``train.eval_pictures`` predictions, if it is above 0."""
    number = cfg.train.get("eval_pictures", 0)
    if not number:
        return evaluator
    dataset_name = cfg.dataloader.evaluator.get("dataset_name")
    if not isinstance(dataset_name, str):
        logger.warning(
            "No predictions are drawn, because dataloader.evaluator.dataset_name does not name the "
            "data set."
        )
        return evaluator
    folder = Path(cfg.train.output_dir) / run_files.PICTURES
    pictures = PredictionPictures(
        dataset_name,
        folder,
        number=number,
        num_batches=num_batches,
        channels=stored_channels(cfg),
    )
    return DatasetEvaluators([evaluator, pictures])


class _Watched:
    """A loader that calls a function before each batch."""

    def __init__(self, loader: Collection[object], function: Callable[[], None]) -> None:
        self._loader = loader
        self._function = function

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[object]:
        for batch in start_workers(self._loader):
            self._function()
            yield batch


def format_results(results: Results) -> str:
    """Return a table with a row per task and a column per metric, without per-class metrics."""
    columns = list(
        dict.fromkeys(
            metric for metrics in results.values() for metric in metrics if "-" not in metric
        )
    )
    rows = [
        [_row_name(task)] + [f"{metrics[name]:.2f}" if name in metrics else "" for name in columns]
        for task, metrics in results.items()
    ]
    return tabulate(
        rows, headers=["", *columns], tablefmt="pipe", stralign="right", disable_numparse=True
    )


def _row_name(task: str) -> str:
    plain = task.removesuffix(_AVERAGED)
    return _TASK_NAMES.get(plain, plain) + (" (EMA)" if plain != task else "")


def write_results(results: Results, output_dir: str, *, training: bool) -> None:
    """Write the results; a metric that does not exist (NaN) is stored as null.

    Args:
        results: task -> metric -> value.
        output_dir: created if it does not exist.
        training: False leaves the ``results.json`` of a training run alone. It writes
            ``results_eval.json``, and makes ``results.json`` a link to it if there is none.
    """
    plain = {
        task: {name: None if math.isnan(value) else float(value) for name, value in metrics.items()}
        for task, metrics in results.items()
    }
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    beside = not training and (folder / run_files.METRICS).exists()  # folder of a training run
    file = folder / (run_files.EVALUATION_RESULTS if beside else run_files.RESULTS)
    with atomic_open(file) as stream:
        json.dump(plain, stream, indent=2)
        stream.write("\n")
    if beside and not (folder / run_files.RESULTS).exists():
        with suppress(OSError):  # some file systems have no links
            (folder / run_files.RESULTS).symlink_to(file.name)
    logger.info("Results written to %s", file)
