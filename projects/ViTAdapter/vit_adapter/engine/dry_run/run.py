"""The course of a dry run: data, config, model, a few steps, and the report."""

import math
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch.utils.data import Dataset

from vit_adapter.checkpoint.trained_part import fixed_weights
from vit_adapter.config.data_checks import dataset_names
from vit_adapter.config.errors import UsageError
from vit_adapter.config.weights import stores_trained_only
from vit_adapter.drawing import draw_targets, montage, save_picture
from vit_adapter.engine.build import build_train_loader, read_train_data
from vit_adapter.engine.dry_run.data_health import check_data
from vit_adapter.engine.dry_run.memory import StepCost, count_step
from vit_adapter.engine.dry_run.numbers import report_disk, report_numbers
from vit_adapter.engine.dry_run.report import PICTURE, Report, collect_warnings
from vit_adapter.engine.dry_run.resources import report_memory, report_model
from vit_adapter.engine.dry_run.timing import EnoughSteps, StepTimer, TimedLoader, report_time
from vit_adapter.engine.parallel import unwrap
from vit_adapter.engine.process_group import Process
from vit_adapter.engine.processes import ProcessLayout
from vit_adapter.engine.run import build_trainer, fit_to_data
from vit_adapter.engine.schedule import fit_schedule
from vit_adapter.engine.setup import seed_data, stated_output_dir
from vit_adapter.engine.trainer import Trainer

__all__ = ["dry_run"]

_MAX_DRAWN = 16  # images of the first batch
_DATA_ERRORS = (OSError, ValueError, KeyError)
_STEP_ERRORS = (*_DATA_ERRORS, FloatingPointError, torch.cuda.OutOfMemoryError)


def dry_run(cfg: DictConfig, arguments: Namespace, processes: ProcessLayout | Process) -> Report:
    """Check a training run without training, in one process that stands for all of them.

    The report is printed, and written to ``dry_run.json`` in ``train.output_dir``, with a picture
    of the first batch in ``dry_run.jpg``. Nothing else is written, and the files of an earlier run
    in that folder stay.

    Args:
        cfg: with the overrides applied; changed in place.
        arguments: parsed by :func:`vit_adapter.engine.cli.build_parser`.
        processes: those of the run.

    Raises:
        UsageError: a mistake in the command line or the config, as in a real run.
    """
    if arguments.eval_only:
        raise UsageError("--dry-run checks a training run; leave out --eval-only.")
    if isinstance(processes, Process):
        raise UsageError(
            "--dry-run runs in one process, which stands for all of them: start it with python "
            "instead of a launcher, and give the number of processes with --num-gpus."
        )
    folder = Path(stated_output_dir(cfg))
    report = Report()
    with collect_warnings(report):
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            report.problems.append(f"train.output_dir={folder} cannot be made: {error}.")
        if _check_data(cfg, report):
            dataset = fit_schedule(cfg, arguments.overrides)
            _check_run(cfg, report, dataset, processes.world_size, resume=arguments.resume)
    report.print_end()
    try:
        print(f"The report is in {report.write(folder)}.")
    except OSError as error:
        report.problems.append(f"train.output_dir={folder} cannot be written: {error}.")
        print(report.problems[-1])
    return report


def _check_data(cfg: DictConfig, report: Report) -> bool:
    """Check the data; return whether they can be read at all."""
    try:
        fit_to_data(cfg, training=True)
        check_data(cfg, report)
    except UsageError:
        raise
    except _DATA_ERRORS as error:
        report.problems.append(_describe(error))
        return False
    return True


def _check_run(
    cfg: DictConfig, report: Report, dataset: Dataset | None, processes: int, *, resume: bool
) -> None:
    """Build everything, take a few steps, and report on them."""
    dataset = read_train_data(cfg) if dataset is None else dataset
    num_images = len(dataset) if hasattr(dataset, "__len__") else None
    cache = cfg.train.get("feature_cache") or {}
    if cache.get("dir"):
        cache.dir = ""
        report.warnings.append(
            "train.feature_cache.dir is not written by a dry run: the times are those of the first "
            "use of each view."
        )
    trainer, dataset, average = build_trainer(cfg, resume=resume, dataset=dataset)
    start_iter = trainer.start_iter
    report_numbers(
        cfg,
        trainer.optimizer,
        report,
        num_images=num_images,
        processes=processes,
        start_iter=start_iter,
    )
    if start_iter >= cfg.train.max_iter:
        report.warnings.append(
            f"The run is already at iteration {start_iter} of {cfg.train.max_iter}; it would only "
            "be evaluated."
        )
        return
    seed_data(cfg.train.seed, start_iter)
    loader = TimedLoader(_build_loader(cfg, dataset, processes, start_iter))
    try:
        steps = _take_steps(cfg, trainer, loader)
        cost = _count_step(trainer, loader.first)
        loading = _measure_loading(cfg, loader)
    except _STEP_ERRORS as error:
        report.problems.append(f"A training step fails: {_describe(error)}")
        return
    finally:
        _draw(cfg, loader.first, report)
    sizes = [inputs["image"].shape[-2:] for inputs in loader.first[: cost.images]]
    largest = tuple(max(size[axis] for size in sizes) for axis in (0, 1))
    report_model(unwrap(trainer.model), cost, largest, report)
    averaged = _count_bytes({} if average is None else average.state_dict())
    report_memory(
        cost, report, average=averaged, processes=processes, accumulate=trainer.accumulate
    )
    stored = cost.weights + averaged + cost.optimizer
    if stores_trained_only(cfg):
        stored -= _count_bytes(fixed_weights(unwrap(trainer.model)))
    report_disk(cfg, report, checkpoint_bytes=stored, start_iter=start_iter)
    report_time(
        cfg,
        report,
        steps=steps,
        waits=loader.seconds[: len(steps)],
        loading=loading,
        num_images=num_images,
        start_iter=start_iter,
    )


def _build_loader(cfg: DictConfig, dataset: Dataset, processes: int, start_iter: int) -> Any:
    """Build the training loader of one of the processes."""
    node = cfg.dataloader.train
    total = node.get("total_batch_size")
    if processes == 1 or not isinstance(total, int):
        return build_train_loader(cfg, dataset, start_iter=start_iter)
    node.total_batch_size = total // processes
    try:
        return build_train_loader(cfg, dataset, start_iter=start_iter)
    finally:
        node.total_batch_size = total


def _take_steps(cfg: DictConfig, trainer: Trainer, loader: TimedLoader) -> list[float]:
    """Train for a few steps and return their seconds."""
    timer = StepTimer(next(trainer.model.parameters()).device)
    trainer.register_hooks([timer])
    trainer.data_loader = loader
    try:
        trainer.train(trainer.start_iter, cfg.train.max_iter)
    except EnoughSteps:
        pass
    return timer.seconds


def _count_step(trainer: Trainer, batch: Sequence[Mapping[str, Any]]) -> StepCost:
    micro_batch = trainer.split(batch)[0]
    with EventStorage(trainer.start_iter):
        return count_step(unwrap(trainer.model), trainer.optimizer, trainer.precision, micro_batch)


def _measure_loading(cfg: DictConfig, loader: TimedLoader) -> float | None:
    workers = cfg.dataloader.train.get("num_workers", 0)
    # Two images per worker, and at least two batches, are prepared in advance.
    prepared = max(2, math.ceil(2 * workers / len(loader.first)))
    return loader.measure(prepared + 1) if workers else None


def _draw(cfg: DictConfig, batch: Sequence[Mapping[str, Any]] | None, report: Report) -> None:
    """Save a picture of the first batch, as the model gets it."""
    if batch is None:
        return
    path = Path(cfg.train.output_dir) / PICTURE
    try:
        metadata = MetadataCatalog.get(dataset_names(cfg, "train")[0])
        image_format = cfg.dataloader.train.mapper.get("image_format", "BGR")
        pictures = [draw_targets(inputs, metadata, image_format) for inputs in batch[:_MAX_DRAWN]]
        save_picture(montage(pictures), path)
    except _DATA_ERRORS as error:
        report.warnings.append(f"The first batch cannot be drawn: {_describe(error)}")
        return
    report.add_section(
        "picture", "First batch", {"file": str(path)}, [("labelled picture", str(path))]
    )


def _count_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Bytes of tensors, of which each counts once."""
    return sum(tensor.nbytes for tensor in {id(each): each for each in tensors.values()}.values())


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
