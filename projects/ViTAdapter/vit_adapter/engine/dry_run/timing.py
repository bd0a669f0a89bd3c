"""The time of a training step and of loading its batch, and what follows for the whole run."""

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import torch
from detectron2.engine import HookBase
from omegaconf import DictConfig

from vit_adapter.engine.dry_run.report import Report

__all__ = ["EnoughSteps", "StepTimer", "TimedLoader", "report_time"]

NUM_WARMUP = 2  # steps that are not timed
NUM_TIMED = 5


class TimedLoader:
    """A data loader that notes how long each batch is waited for, and keeps the first one.

    Args:
        loader: endless iterable of batches.

    Attributes:
        seconds: of each batch so far.
        first: the first batch; None before it is read.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self._batches: Iterator[Any] | None = None
        self.seconds: list[float] = []
        self.first: Any = None

    def __iter__(self) -> "TimedLoader":
        """Return the loader itself."""
        return self

    def __next__(self) -> Any:
        """Return the next batch."""
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self._loader)
        batch = next(self._batches)
        self.seconds.append(time.perf_counter() - start)
        self.first = batch if self.first is None else self.first
        return batch

    def measure(self, num_prefetched: int) -> float:
        """Return the mean seconds per batch while nothing else is done.

        Args:
            num_prefetched: batches that may be ready already. They are read first and do not count.
        """
        for _ in range(num_prefetched):
            next(self)
        start = time.perf_counter()
        for _ in range(NUM_TIMED):
            next(self)
        return (time.perf_counter() - start) / NUM_TIMED


class EnoughSteps(Exception):
    """Ends the training loop of a dry run."""


class StepTimer(HookBase):
    """Measures each whole step, waits for the device at its end, and stops after the last one.

    Attributes:
        seconds: of each step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = 0.0
        self.seconds: list[float] = []

    def before_step(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Stop the clock, and the training if it has taken all steps.

        Raises:
            EnoughSteps: it has.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds.append(time.perf_counter() - self._start)
        if len(self.seconds) == NUM_WARMUP + NUM_TIMED:
            raise EnoughSteps


def report_time(
    cfg: DictConfig,
    report: Report,
    *,
    steps: Sequence[float],
    waits: Sequence[float],
    loading: float | None,
    num_images: int | None,
    start_iter: int,
) -> None:
    """Add the section "time", from the medians of the steps after the warm-up.

    Args:
        cfg: of the run.
        report: gets the section, and a warning if the data cannot keep up.
        steps: seconds of each step, with its waiting.
        waits: seconds that each step waited for its batch.
        loading: seconds in which the workers can load a batch; None without workers.
        num_images: of the training data; None if unknown.
        start_iter: iteration at which the run starts or continues.
    """
    step, wait = (statistics.median(values[NUM_WARMUP:] or values) for values in (steps, waits))
    computing = step - wait
    # Batches that were prefetched during the warm-up can hide that the workers are too slow.
    step = computing + wait if loading is None else max(computing, loading)
    batch = cfg.dataloader.train.get("total_batch_size")
    left = (cfg.train.max_iter - start_iter) * step
    end = datetime.now() + timedelta(seconds=left)
    values = {
        "timed_steps": len(steps[NUM_WARMUP:] or steps),
        "step_seconds": step,
        "computing_seconds": computing,
        "loading_seconds": wait if loading is None else loading,
        "run_seconds": left,
        "end": end.isoformat(timespec="minutes"),
    }
    workers = cfg.dataloader.train.get("num_workers", 0)
    loaded = f"{workers} workers load" if workers else "the training process loads"
    rows = [
        ("step", f"{step:.3f} s"),
        ("of which computing", f"{computing:.3f} s"),
        ("data", f"{loaded} a batch in {values['loading_seconds']:.3f} s"),
        ("run", f"{_in_words(left)} without evaluations; ends on {end:%Y-%m-%d at %H:%M}"),
    ]
    if isinstance(batch, int):
        values["images_per_second"] = batch / step
        rows[0] = ("step", f"{rows[0][1]}; {batch / step:.1f} images a second")
        if num_images:
            values["epoch_seconds"] = num_images / batch * step
            rows.insert(3, ("epoch", _in_words(values["epoch_seconds"])))
    report.add_section("time", f"Time, from {values['timed_steps']} steps", values, rows)
    if values["loading_seconds"] > (computing if workers else 0.1 * computing):
        advice = "Use more of them" if workers else "Use some"
        report.warnings.append(
            f"The data do not keep up: {loaded} a batch in "
            f"{values['loading_seconds']:.2f} s, and a "
            f"step computes for {computing:.2f} s. {advice} (dataloader.train.num_workers)."
        )


def _in_words(seconds: float) -> str:
    text = str(timedelta(seconds=round(seconds)))  # "1 day, 2:03:04"
    return f"{text} h"
