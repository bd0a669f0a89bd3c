"""The two things that ``train_net.py`` does: train a model, or evaluate a checkpoint."""

import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.config import instantiate
from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import Dataset

import vit_adapter.data  # noqa: F401  (registers the data sets of the project)
from vit_adapter.checkpoint import run_files
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import load_config
from vit_adapter.config.mask_branch import drop_mask_branch
from vit_adapter.config.model import build_model
from vit_adapter.config.own_data import apply_custom_data, check_classes
from vit_adapter.engine.build import build_optimizer, build_train_loader, load_trunk, wrap_model
from vit_adapter.engine.evaluation import evaluate
from vit_adapter.engine.freezing import FrozenNorms, freeze_parameters
from vit_adapter.engine.hooks import EvaluationHook, PeriodicCheckpointer
from vit_adapter.engine.output_dir import (
    describe_earlier_runs,
    drop_unsaved_progress,
    follow_weights,
    refuse_restart,
    set_previous_run_aside,
)
from vit_adapter.engine.schedule import fit_schedule
from vit_adapter.engine.setup import save_config, seed_data, seed_model, set_up_logging
from vit_adapter.engine.torchrun import restart_count
from vit_adapter.engine.trainer import Precision, Trainer

__all__ = ["evaluate_checkpoint", "run", "train"]

logger = logging.getLogger(__name__)


def run(arguments: Namespace) -> None:
    """Do what the command line says, in one process of a run.

    Args:
        arguments: of :func:`vit_adapter.engine.cli.build_parser`.
    """
    cfg = load_config(arguments.config_file, arguments.overrides)
    set_up_logging(cfg, arguments)
    apply_custom_data(cfg, training=not arguments.eval_only)
    drop_mask_branch(cfg)
    check_classes(cfg, training=not arguments.eval_only)
    if arguments.eval_only:
        evaluate_checkpoint(cfg, resume=arguments.resume)
    else:
        dataset = fit_schedule(cfg, arguments.overrides)
        train(cfg, resume=arguments.resume, dataset=dataset)


def train(cfg: DictConfig, *, resume: bool = False, dataset: Dataset | None = None) -> None:
    """Train and evaluate the model of a config; every process of a run calls this.

    Args:
        cfg: ``model, dataloader, optimizer, lr_multiplier, train``.
        resume: continue from the last checkpoint of ``train.output_dir`` if it has one;
            otherwise an earlier run there is moved to a folder of its own.
        dataset: the training data, if they have been read already.

    Raises:
        FloatingPointError: a loss is not finite.
        UsageError: the weights to start from are lacking or do not fit.
    """
    options = cfg.train
    precision = Precision.from_config(cfg, resolve_device(cfg).type)
    seed_model(options.seed)
    model = build_model(cfg)
    logger.info("Model:\n%s", model)
    frozen = options.get("freeze", [])
    freeze_parameters(model, frozen)
    optimizer = build_optimizer(cfg, model)
    trainer = Trainer(model=model, optimizer=optimizer, precision=precision)
    trainer.register_hooks(
        [hooks.IterationTimer(), hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))]
    )
    if frozen:
        trainer.register_hooks([FrozenNorms(model)])
    checkpointer = Checkpointer(
        model, options.output_dir, trainer=trainer, allow_mismatch=options.allow_mismatch
    )
    start_iter = _load_weights(cfg, checkpointer, resume=resume)
    # Only now: the weights to start from may lie in the folder that is tidied up.
    comm.synchronize()
    if comm.is_main_process():
        if not start_iter:
            follow_weights(options, set_previous_run_aside(options.output_dir))
        drop_unsaved_progress(options.output_dir, start_iter)
    save_config(cfg, options.output_dir)
    comm.synchronize()

    trainer.model = wrap_model(cfg, model)
    seed_data(options.seed, start_iter)
    if start_iter < options.max_iter:
        trainer.data_loader = build_train_loader(cfg, dataset)
    else:
        logger.info(
            "The run is already at iteration %d of %d: it is only evaluated.",
            start_iter,
            options.max_iter,
        )
    trainer.register_hooks(_output_hooks(cfg, model, checkpointer, start_iter))
    trainer.train(start_iter, options.max_iter)


def evaluate_checkpoint(cfg: DictConfig, *, resume: bool = False) -> dict[str, dict[str, float]]:
    """Evaluate a checkpoint without training; every process of a run calls this.

    Args:
        cfg: ``train.init_checkpoint`` names the weights.
        resume: take the last checkpoint of ``train.output_dir`` instead, if it has one.

    Returns:
        What :func:`evaluate` returns.

    Raises:
        UsageError: there is no checkpoint, or one that does not fit, or nothing to evaluate it
            with.
    """
    options = cfg.train
    if cfg.dataloader.get("evaluator") is None:
        raise UsageError(
            "--eval-only needs an evaluator, and this config has none; with own data give "
            "data.val_images together with data.val_json or data.val_labels."
        )
    seed_model(options.seed)
    model = build_model(cfg)
    checkpointer = Checkpointer(model, options.output_dir, allow_mismatch=options.allow_mismatch)
    resume = _can_resume(checkpointer, resume)
    if not options.init_checkpoint and not resume:
        raise UsageError(
            "--eval-only needs weights: give train.init_checkpoint=<file>, or --resume for the "
            f"last checkpoint in train.output_dir ({options.output_dir})."
        )
    with _named_weights():
        checkpointer.resume_or_load(options.init_checkpoint, resume=resume)
    save_config(cfg, options.output_dir, run_files.EVALUATION_CONFIG)
    return evaluate(cfg, model)


def _load_weights(cfg: DictConfig, checkpointer: Checkpointer, *, resume: bool) -> int:
    """Load the weights that a run starts from and return the iteration at which it starts."""
    options = cfg.train
    if not resume:
        refuse_restart(options.output_dir, max(comm.all_gather(restart_count())))
    resumed = _can_resume(checkpointer, resume)
    with _named_weights():
        if not resumed and not options.init_checkpoint:
            load_trunk(cfg, checkpointer.model)
        checkpointer.resume_or_load(options.init_checkpoint, resume=resumed)
    # The checkpoint stores the iteration that was just finished.
    return checkpointer.checkpointables["trainer"].iter + 1 if resumed else 0


@contextmanager
def _named_weights() -> Iterator[None]:
    """Report weights that are lacking or unfit as mistakes of the command line that names them."""
    try:
        yield
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise UsageError(str(error)) from error


def _can_resume(checkpointer: Checkpointer, wanted: bool) -> bool:
    """Whether there is a checkpoint to resume; all processes follow what the main one sees."""
    found = comm.all_gather(wanted and checkpointer.has_checkpoint())[0]
    if wanted and not found:
        logger.warning(
            "--resume: %s holds no checkpoint to continue from.%s",
            checkpointer.save_dir,
            describe_earlier_runs(checkpointer.save_dir),
        )
    return found


def _output_hooks(
    cfg: DictConfig, model: nn.Module, checkpointer: Checkpointer, start_iter: int
) -> list[hooks.HookBase]:
    """Checkpoints, evaluation and, last so that they see everything, the writers."""
    options = cfg.train
    evaluation = EvaluationHook(
        options.eval_period, lambda: evaluate(cfg, model, training=True), checkpointer
    )
    if not comm.is_main_process():
        return [evaluation]
    return [
        PeriodicCheckpointer(checkpointer, **options.checkpointer),
        evaluation,
        hooks.PeriodicWriter(_writers(cfg, start_iter), period=options.log_period),
    ]


def _writers(cfg: DictConfig, start_iter: int) -> list[EventWriter]:
    output_dir = cfg.train.output_dir
    return [
        CommonMetricPrinter(cfg.train.max_iter),
        JSONWriter(f"{output_dir}/{run_files.METRICS}"),
        # Hides the points of iterations that an interrupted run computed after its checkpoint.
        TensorboardXWriter(output_dir, purge_step=start_iter),
    ]
