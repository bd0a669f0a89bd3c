"""The best checkpoint by a metric, and when to stop early: ``train.best``."""

import json
import logging
import math
import operator
import os
from collections.abc import Mapping
from typing import Any

from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from omegaconf import DictConfig

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.checkpoint.run_files import BEST_CHECKPOINT, EVALUATIONS
from vit_adapter.config.errors import UsageError
from vit_adapter.utils.atomic import atomic_open

__all__ = ["BestCheckpoint", "build_best", "check_best"]

logger = logging.getLogger(__name__)

_BETTER = {"max": operator.gt, "min": operator.lt}
_BEST = "best"


class BestCheckpoint:
    """Keeps the checkpoint with the best value of a metric, and counts evaluations without one.

    The checkpoint of an iteration is written before its evaluation, so it cannot hold the result.
    Two files do: ``model_best.pth`` holds the best value, and a list of all evaluations is written
    after it. If the run is killed between the two, or during an evaluation, the evaluation is
    missing in the list, and a resumed run repeats it.

    All processes call all methods.

    Args:
        checkpointer: writes ``model_best.pth``.
        metric: name of a metric as in ``metrics.json``, such as "bbox/AP".
        mode: "max" if larger is better, "min" otherwise.
        patience: number of evaluations in a row without a new best value after which the run should
            stop; None for never.

    Attributes:
        value: the best value; None before the first.
        iteration: iteration of the best value, counted from 0; -1 before the first.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        *,
        metric: str,
        mode: str = "max",
        patience: int | None = None,
    ) -> None:
        self._checkpointer = checkpointer
        self._metric, self._mode = metric, mode
        self._patience = patience
        self._evaluations: dict[int, float] = {}
        self.value: float | None = None
        self.iteration = -1

    def update(self, results: Mapping[str, Mapping[str, float]], iteration: int) -> None:
        """Take in an evaluation, and save the model if it is the best.

        A value that is not finite is never the best.

        Args:
            results: task -> metric -> value; only those of the main process are read.
            iteration: the last iteration before the evaluation, counted from 0.

        Raises:
            UsageError: the evaluator has no such metric; raised in all processes.
        """
        metrics = comm.all_gather(flatten_results_dict(results))[0]
        if self._metric not in metrics:
            raise UsageError(
                f"train.best.metric={self._metric!r} is not among the results of the evaluation: "
                f"{', '.join(sorted(metrics)) or 'there are none'}. Give one of these names."
            )
        value = float(metrics[self._metric])
        best = self.value
        if math.isfinite(value) and (best is None or _BETTER[self._mode](value, best)):
            self.value, self.iteration = value, iteration
            name = BEST_CHECKPOINT.removesuffix(".pth")
            record = {"metric": self._metric, "mode": self._mode, "value": value}
            self._checkpointer.save(name, as_last=False, iteration=iteration, **{_BEST: record})
            logger.info("The best %s so far is %.4f.", self._metric, value)
        self._evaluations[iteration] = value
        self._write_evaluations()

    def has_evaluated(self, iteration: int) -> bool:
        """Whether the model after an iteration, counted from 0, has been evaluated."""
        return iteration in self._evaluations

    @property
    def should_stop(self) -> bool:
        """Whether there were ``patience`` evaluations since the best one."""
        return self._patience is not None and self._count_since_best() >= self._patience

    def describe_stop(self) -> str:
        """Say why the run stops early, and how to train on."""
        best = "No value was finite."
        if self.value is not None:
            best = f"The best, {self.value:.4f}, is from iteration {self.iteration}; its weights "
            best += f"are in {os.path.basename(self._file())}."
        return (
            f"The run stops early, after iteration {max(self._evaluations)}: {self._metric} has "
            f"not improved in the last {self._count_since_best()} evaluations. {best} To train on, "
            "use --resume with a larger train.best.patience, or with train.best.patience=null."
        )

    def restore(self, start_iter: int) -> None:
        """Continue from what an interrupted run has written into the folder.

        Evaluations of iterations that are computed again do not count. The best checkpoint
        does, even if it is of such an iteration.

        Args:
            start_iter: iteration at which the run continues.
        """
        read = self._read() if comm.is_main_process() else None
        self.value, self.iteration, evaluations = comm.all_gather(read)[0]
        self._evaluations = {
            iteration: value for iteration, value in evaluations.items() if iteration < start_iter
        }
        if self.value is not None:
            logger.info("The best %s so far is %.4f.", self._metric, self.value)

    def _count_since_best(self) -> int:
        return sum(iteration > self.iteration for iteration in self._evaluations)

    def _read(self) -> tuple[float | None, int, dict[int, float]]:
        """Return the best value, its iteration, and the value of every evaluation."""
        value, iteration, evaluations = None, -1, {}
        file = self._file()
        if os.path.exists(file):
            checkpoint: dict[str, Any] = load_checkpoint_file(file, mapped=True)
            if self._is_own(checkpoint.get(_BEST, {}), file):
                value, iteration = checkpoint[_BEST]["value"], checkpoint["iteration"]
        file = self._path(EVALUATIONS)
        if os.path.exists(file):
            with open(file, encoding="utf-8") as stream:
                stored = json.load(stream)
            if self._is_own(stored, file):
                evaluations = {
                    number: math.nan if entry is None else entry
                    for number, entry in stored["evaluations"]
                }
        return value, iteration, evaluations

    def _is_own(self, stored: Mapping[str, object], file: str) -> bool:
        """Whether a file was written for the same metric and mode."""
        own = (stored.get("metric"), stored.get("mode")) == (self._metric, self._mode)
        if not own:
            logger.warning(
                "%s is for another train.best: metric=%s, mode=%s. The search for the best "
                "checkpoint starts again.",
                *(file, stored.get("metric"), stored.get("mode")),
            )
        return own

    def _write_evaluations(self) -> None:
        if not comm.is_main_process():
            return
        content = {
            "metric": self._metric,
            "mode": self._mode,
            "evaluations": [
                [iteration, value if math.isfinite(value) else None]
                for iteration, value in self._evaluations.items()
            ],
        }
        with atomic_open(self._path(EVALUATIONS)) as stream:
            json.dump(content, stream, indent=2)
            stream.write("\n")

    def _file(self) -> str:
        return self._checkpointer.path_of(BEST_CHECKPOINT.removesuffix(".pth"))

    def _path(self, name: str) -> str:
        return os.path.join(self._checkpointer.save_dir, name)


def check_best(cfg: DictConfig) -> None:
    """Refuse options of ``train.best`` that cannot work, before anything is built.

    Raises:
        UsageError: the message says what to change.
    """
    options = cfg.train.get("best") or {}
    metric, mode, patience = (options.get(key) for key in ("metric", "mode", "patience"))
    if mode not in (None, *_BETTER):
        raise UsageError(f"train.best.mode={mode!r}, expected {' or '.join(_BETTER)}.")
    if patience is not None and not metric:
        raise UsageError(
            f"train.best.patience={patience} needs the metric that should improve, for example "
            "train.best.metric=bbox/AP."
        )
    if metric and cfg.dataloader.get("evaluator") is None:
        raise UsageError(
            f"train.best.metric={metric!r} needs evaluations, but the config has no evaluator; for "
            "custom data give the data.val_* paths."
        )
    if patience is not None and not cfg.train.eval_period:
        raise UsageError(
            f"train.best.patience={patience} needs evaluations during training; give "
            "train.eval_period in iterations."
        )


def build_best(
    cfg: DictConfig, checkpointer: Checkpointer, start_iter: int
) -> BestCheckpoint | None:
    """Return the search for the best checkpoint that ``cfg.train.best`` asks for.

    Args:
        cfg: checked by :func:`check_best`; ``train.best`` has ``metric``, ``mode``, ``patience``.
        checkpointer: writes the checkpoints of the run.
        start_iter: iteration at which training starts or continues.
    """
    options = cfg.train.get("best") or {}
    if not options.get("metric"):
        return None
    best = BestCheckpoint(
        checkpointer,
        metric=options.metric,
        mode=options.get("mode", "max"),
        patience=options.get("patience"),
    )
    if start_iter:
        best.restore(start_iter)
    return best
