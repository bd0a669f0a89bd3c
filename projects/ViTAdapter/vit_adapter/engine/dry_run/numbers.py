"""The resolved numbers of a run: batch, learning rate, length, periods, space for checkpoints."""

import math
import os
import shutil
from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter.checkpoint import run_files
from vit_adapter.engine.dry_run.report import Report, in_words
from vit_adapter.engine.output_dir import holds_run

__all__ = ["report_disk", "report_numbers"]


def report_numbers(
    cfg: DictConfig,
    optimizer: torch.optim.Optimizer,
    report: Report,
    *,
    num_images: int | None,
    processes: int,
    start_iter: int,
) -> None:
    """Add the section "run".

    Args:
        cfg: whose schedule is already fitted to the data.
        optimizer: of the model.
        report: gets the section.
        num_images: of the training data; None if unknown.
        processes: of the run.
        start_iter: iteration at which the run starts or continues.
    """
    options, batch = cfg.train, cfg.dataloader.train.get("total_batch_size")
    accumulate = options.get("accumulate", 1)
    values, rows = {}, []
    if isinstance(batch, int):
        micro = batch // processes // accumulate
        values.update(
            total_batch_size=batch, processes=processes, accumulate=accumulate, micro_batch=micro
        )
        text = f"{processes} process{'es' if processes > 1 else ''} x {accumulate} micro-batch"
        rows.append(("batch", f"{batch} = {text}{'es' if accumulate > 1 else ''} x {micro} images"))
    length = f"{options.max_iter:,} iterations"
    values.update(max_iter=options.max_iter, start_iter=start_iter)
    if num_images and isinstance(batch, int):
        epochs = options.max_iter * batch / num_images
        values.update(training_images=num_images, epochs=epochs)
        length += f" = {epochs:,.2f} epochs of {num_images:,} images"
    if start_iter:
        length += f", continued at {start_iter:,}"
    rows.append(("length", length))
    _add_rates(cfg, optimizer, values, rows)
    _add_warmup(cfg, values, rows)
    _add_periods(cfg, values, rows)
    report.add_section("run", "Run", values, rows)


def report_disk(cfg: DictConfig, report: Report, *, checkpoint_bytes: int, start_iter: int) -> None:
    """Add the section "disk"; too little space for the checkpoints is a problem.

    Args:
        cfg: ``train.checkpointer`` and ``train.output_dir`` are read.
        report: gets the section.
        checkpoint_bytes: size of one checkpoint.
        start_iter: iteration at which the run starts or continues.
    """
    folder = Path(os.path.abspath(cfg.train.output_dir))
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    kept = cfg.train.checkpointer.get("max_to_keep")
    times = _times(cfg, cfg.train.checkpointer.period)
    count = times if kept is None else min(times, kept)
    needed = (count + 1) * checkpoint_bytes  # and the last one, or the one that is being written
    values = {
        "checkpoint_bytes": checkpoint_bytes,
        "kept": count,
        "needed_bytes": needed,
        "free_bytes": free,
    }
    rows = [
        ("checkpoints", f"{count} kept, and the last one, of {in_words(checkpoint_bytes)} each"),
        ("space", f"{in_words(needed)} in {cfg.train.output_dir}, where {in_words(free)} are free"),
    ]
    report.add_section("disk", "Disk", values, rows)
    if needed > free:
        report.problems.append(
            f"The checkpoints need {in_words(needed)} in {cfg.train.output_dir}, but only "
            f"{in_words(free)} are free. Keep fewer (train.checkpointer.max_to_keep), or give "
            "another train.output_dir."
        )
    if not start_iter and holds_run(Path(cfg.train.output_dir)):
        report.warnings.append(
            f"{cfg.train.output_dir} has an earlier run. Training would move its files to a folder "
            f"{run_files.SET_ASIDE}<n> there; --resume continues it instead."
        )


def _add_rates(cfg, optimizer, values: dict, rows: list) -> None:
    """Add the learning rate, and the lowest and highest multiplier of the parameter groups."""
    groups = optimizer.param_groups
    rates = [group.get("initial_lr", group["lr"]) for group in groups]
    base = cfg.optimizer.get("lr") or max(rates)
    multipliers = [rate / base for rate in rates]
    decays = sorted({group.get("weight_decay", 0) for group in groups})
    values.update(
        learning_rate=base,
        parameter_groups=len(groups),
        lr_multipliers=[min(multipliers), max(multipliers)],
        weight_decays=decays,
    )
    rows.append(
        (
            "learning rate",
            f"{base:g}, times {min(multipliers):.3g} to {max(multipliers):.3g} in {len(groups)} "
            f"groups; weight decay {' and '.join(f'{decay:g}' for decay in decays)}",
        )
    )


def _add_warmup(cfg: DictConfig, values: dict, rows: list) -> None:
    schedule = instantiate(cfg.lr_multiplier)
    iterations = getattr(getattr(schedule, "warmup", None), "warmup_iters", None)
    if iterations is not None:
        share = iterations / cfg.train.max_iter
        values["warmup_iters"] = iterations
        rows.append(("warm-up", f"{iterations:,} iterations, {share:.1%} of the run"))


def _add_periods(cfg: DictConfig, values: dict, rows: list) -> None:
    for name, period in (
        ("evaluation", cfg.train.eval_period),
        ("checkpoint", cfg.train.checkpointer.period),
    ):
        times = _times(cfg, period)
        if name == "evaluation" and cfg.dataloader.get("evaluator") is None:
            times = 0
        every = f"every {period:,} iterations" if period else "at the end"
        values[name] = {"period": period, "times": times}
        rows.append((name, f"{every}, {times:,} in all" if times else "never"))


def _times(cfg: DictConfig, period: int) -> int:
    """How often something happens that is due every ``period`` iterations and at the end."""
    return math.ceil(cfg.train.max_iter / period) if period else 1
