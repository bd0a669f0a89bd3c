"""The hooks of a training run, including those that Detectron2 does not have."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import instantiate
from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from omegaconf import DictConfig
from torch import nn

from vit_adapter.checkpoint import run_files
from vit_adapter.checkpoint.checkpointer import Checkpointer, CheckpointWriteError
from vit_adapter.checkpoint.resumable import iteration_of
from vit_adapter.checkpoint.sharded import remove_checkpoint
from vit_adapter.config.errors import UsageError
from vit_adapter.config.weights import base_weights, stores_trained_only
from vit_adapter.engine.best import BestCheckpoint, build_best
from vit_adapter.engine.clipping import clipping_hooks
from vit_adapter.engine.ema import WeightAverage
from vit_adapter.engine.evaluation import evaluate
from vit_adapter.engine.freezing import FrozenNorms
from vit_adapter.engine.interruption import Interrupted, StopOnSignal
from vit_adapter.engine.metric_writer import PeriodicWriter
from vit_adapter.engine.parallel import gather_state, is_sharded, unwrap
from vit_adapter.engine.progress import ProgressBar
from vit_adapter.engine.replay import ReplayWriter
from vit_adapter.engine.trackers import build_trackers
from vit_adapter.engine.trainer import Trainer

__all__ = ["EvaluationHook", "PeriodicCheckpointer", "output_hooks", "training_hooks"]

logger = logging.getLogger(__name__)


def training_hooks(cfg: DictConfig, model: nn.Module) -> list[HookBase]:
    """Return the hooks that take part in training, in the order in which they act.

    A resumed run restores their state, so the trainer must have them before that.

    Args:
        cfg: ``lr_multiplier`` is instantiated; ``train`` has ``clip_grad`` and ``freeze``.
        model: as it is trained.
    """
    result = [hooks.IterationTimer(), hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))]
    if cfg.train.get("freeze"):
        result.append(FrozenNorms(model))
    return [*result, *clipping_hooks(cfg)]


def output_hooks(
    cfg: DictConfig, trainer: Trainer, output_dir: str, average: WeightAverage | None = None
) -> list[HookBase]:
    """Return the hooks that write: progress bar, checkpoints, evaluation and the writers.

    The writers come last, so that they see everything.

    Args:
        cfg: ``train`` holds the periods.
        trainer: the trainer of this run; checkpoints store it with its model.
        output_dir: the result of :func:`vit_adapter.engine.output_dir.claim_output_dir`.
        average: of the weights of this run, which is stored and evaluated with them.

    Raises:
        UsageError: options of ``train.checkpointer`` exclude each other.
    """
    options = cfg.train
    sharded = options.checkpointer.get("sharded", False)
    if sharded and stores_trained_only(cfg):
        raise UsageError(
            "train.checkpointer.sharded=True stores everything, and trained_only=True does not; "
            "set one of them to False."
        )
    checkpointer = Checkpointer(
        unwrap(trainer.model),
        output_dir,
        trainer=trainer,
        gather=gather_state,
        sharded=sharded,
        base=base_weights(cfg),
        trained_only=stores_trained_only(cfg),
        average=average,
    )
    ways = ("trained_only", "sharded")
    periods = {key: value for key, value in options.checkpointer.items() if key not in ways}
    stopping = StopOnSignal(checkpointer)

    def evaluate_now() -> Mapping[str, Mapping[str, float]]:
        return evaluate(
            cfg,
            trainer.model,
            training=True,
            average=average,
            before_batch=stopping.stop_now,  # an evaluation may take longer than a cluster waits
        )

    result = [
        ReplayWriter(cfg, output_dir),
        PeriodicCheckpointer(checkpointer, **periods),
        stopping,
        EvaluationHook(
            options.eval_period,
            evaluate_now,
            checkpointer,
            build_best(cfg, checkpointer, trainer.start_iter),
        ),
    ]
    if comm.is_main_process():
        writers = [
            CommonMetricPrinter(options.max_iter),
            JSONWriter(os.path.join(output_dir, run_files.METRICS)),
            *build_trackers(
                cfg, output_dir, resumed=trainer.start_iter > 0, failed=lambda: trainer.failed
            ),
            # It removes images from the storage, so it comes after all others.
            # Hide the iterations that an interrupted run computed after its last checkpoint.
            TensorboardXWriter(output_dir, purge_step=trainer.start_iter),
        ]
        result = [ProgressBar(), *result]
        result.append(PeriodicWriter(writers, period=options.log_period))
    return result


class EvaluationHook(HookBase):
    """Evaluate every ``period`` iterations and after the last one, never after a failure.

    Detectron2's ``EvalHook`` looks only at the iteration count and therefore evaluates a model
    whose very last iteration failed. If an evaluation during training fails, a checkpoint is
    saved before the run ends, unless the model is divided among the processes: this takes all of
    them, and some may not have failed.

    Args:
        period: iterations between evaluations; 0 evaluates only after the last one.
        evaluate: returns task -> metric -> value; called by all processes.
        checkpointer: saves the trained model. Another hook, before this one, must write the
            checkpoint after the last iteration.
        best: learns of every evaluation, and decides whether the run stops early.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], Mapping[str, Mapping[str, float]]],
        checkpointer: Checkpointer,
        best: BestCheckpoint | None = None,
    ) -> None:
        self._period = period
        self._evaluate = evaluate
        self._checkpointer = checkpointer
        self._best = best
        self._stopped = False

    def before_train(self) -> None:
        """Repeat an evaluation that was interrupted; do not continue a run that stops early."""
        last = self.trainer.start_iter - 1
        if self._best is None or last < 0:
            return
        if self._is_due(last) and not self._best.has_evaluated(last):
            logger.info("The evaluation after iteration %d is missing, so it is done now.", last)
            with self._as_after(last):
                self.trainer.storage.iter = last
                self._run_or_save()
        if self._best.should_stop:
            with self._as_after(last):
                file = Path(self._checkpointer.get_checkpoint_file())
                self._stop(save=file.stem != Path(run_files.FINAL_CHECKPOINT).stem)

    def after_step(self) -> None:
        """Evaluate if it is time; the last iteration is left to :meth:`after_train`."""
        if self._is_due(self.trainer.iter):
            self._run_or_save()
            if self._best is not None and self._best.should_stop:
                self._stop(save=True)

    def after_train(self) -> None:
        """Evaluate the finished model."""
        if self.trainer.failed or self._stopped:
            return
        try:
            with self._as_after(self.trainer.iter - 1):
                self._run()
        except Exception:  # any error of an evaluator; it is raised again
            _report_failure(
                "The evaluation failed, but the training did not: its weights are in "
                f"{self._checkpointer.save_dir}. Fix the cause, then evaluate them with "
                "--eval-only --resume."
            )
            raise

    def _is_due(self, iteration: int) -> bool:
        done = iteration + 1
        return self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter

    @contextmanager
    def _as_after(self, iteration: int) -> Iterator[None]:
        """Let checkpoints store this iteration as the last one, as in :meth:`after_step`."""
        kept, self.trainer.iter = self.trainer.iter, iteration
        try:
            yield
        finally:
            self.trainer.iter = kept

    def _run(self) -> None:
        results = self._evaluate()
        self.trainer.storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        if self._best is not None:
            self._best.update(results, self.trainer.iter)
        # Processes finish at different times; wait here, not inside the next iteration.
        comm.synchronize()

    def _run_or_save(self) -> None:
        try:
            self._run()
        except BaseException as error:  # including an interruption by the user
            saved = self._save()
            if isinstance(error, Interrupted):
                logger.warning(
                    "A signal ends the run during the evaluation, with exit status %s. %s "
                    "--resume continues from there.",
                    error.code,
                    saved,
                )
            else:
                _report_failure(
                    f"The evaluation failed. {saved} Fix the cause, then continue with --resume."
                )
            raise

    def _stop(self, *, save: bool) -> None:
        """Make the present iteration the last one, which has been evaluated already."""
        self._stopped = True
        self.trainer.stop_early()
        if save:
            name = run_files.FINAL_CHECKPOINT.removesuffix(".pth")
            self._checkpointer.save(name, iteration=self.trainer.iter)
        logger.info(self._best.describe_stop())

    def _save(self) -> str:
        """Save the weights unless the last checkpoint has them; say where they are."""
        if self._checkpointer.sharded or is_sharded(self._checkpointer.model):
            has_one = self._checkpointer.has_checkpoint()
            last = self._checkpointer.get_checkpoint_file() if has_one else "none"
            return (
                "One process cannot save a model that is divided, or a checkpoint that all write, "
                f"so the last checkpoint counts: {last}."
            )
        name = run_files.checkpoint_name(self.trainer.iter)
        # A file of that name may already exist if the run was resumed from an earlier checkpoint.
        if os.path.basename(self._checkpointer.get_checkpoint_file()) != f"{name}.pth":
            # Any process can save: all have the same weights, and the one that failed still runs.
            self._checkpointer.save_to_disk = True
            self._checkpointer.save(name, iteration=self.trainer.iter)
        file = os.path.join(self._checkpointer.save_dir, f"{name}.pth")
        return f"The weights trained so far are in {file}."


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook, which in a resumed run also removes checkpoints of the interrupted run.

    Every process needs one, since each may hold a part of the state.

    A checkpoint that cannot be written does not stop the training: the cause, such as a full disk,
    may be gone when the next one is due. If that one fails as well, or it is the last one, the
    error is raised.

    Args:
        checkpointer: writes the files, in the main process.
        period: iterations between checkpoints; 0 saves only after the last iteration.
        max_to_keep: how many of them are kept in addition to the last one; None for all.
    """

    def __init__(
        self, checkpointer: Checkpointer, period: int, max_to_keep: int | None = None
    ) -> None:
        super().__init__(checkpointer, period or sys.maxsize)
        self._keep = max_to_keep if comm.is_main_process() else None  # the others remove nothing
        self._saved: list[str] = []
        self._failed = False

    def before_train(self) -> None:
        """Treat the checkpoints before the first iteration as the oldest ones.

        Later ones, which the interrupted run may have left, are replaced when their turn comes.
        """
        super().before_train()
        name = re.compile(rf"{self.file_prefix}_\d+\.(pth|sharded)")
        folder = self.checkpointer.save_dir
        if self._keep is not None and os.path.isdir(folder):
            found = [Path(folder, file) for file in os.listdir(folder) if name.fullmatch(file)]
            start = self.trainer.start_iter
            self._saved = sorted(str(file) for file in found if iteration_of(file) < start)

    def step(self, iteration: int, **extra: object) -> None:
        """Save a checkpoint if it is time, and remove the oldest ones.

        Raises:
            CheckpointWriteError: the last checkpoint, or the second in a row, cannot be written.
        """
        try:
            super().step(iteration, **extra)
        except CheckpointWriteError as error:
            if self._failed or iteration >= self.max_iter - 1:
                raise
            self._failed = True
            logger.error(
                "%s\nTraining goes on, and stops if the next checkpoint, after %d iterations, "
                "cannot be written either.",
                error,
                self.period,
            )
            return
        if (iteration + 1) % self.period == 0:
            self._failed = False
            name = f"{self.file_prefix}_{iteration:07d}"
            self._saved.append(self.checkpointer.path_of(name))
            self._remove_old(unfinished=int(self.checkpointer.sharded))

    def after_train(self) -> None:
        """Wait until the last checkpoint is complete; after a failure it may never be."""
        if not self.trainer.failed:
            self.checkpointer.wait()
            self._remove_old()

    def _remove_old(self, unfinished: int = 0) -> None:
        if self._keep is not None:
            while len(self._saved) > self._keep + unfinished:
                remove_checkpoint(self._saved.pop(0))


def _report_failure(text: str) -> None:
    """Log an error, and print it in processes that log only to a file.

    The main process logs to the screen, but it may be stopped before it reports the same error.
    """
    logger.error(text)
    if not comm.is_main_process():
        print(text, file=sys.stderr, flush=True)
