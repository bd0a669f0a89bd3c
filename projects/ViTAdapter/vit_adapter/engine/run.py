"""The two things that ``train_net.py`` does: train a model, or evaluate a checkpoint."""

import logging
from argparse import Namespace

from omegaconf import DictConfig
from torch.utils.data import Dataset

import vit_adapter.data  # noqa: F401  (registers the data sets of the project)
from vit_adapter.checkpoint.run_files import EVALUATION_CONFIG
from vit_adapter.config.data_checks import check_classes
from vit_adapter.config.errors import UsageError
from vit_adapter.config.input_channels import fit_statistics
from vit_adapter.config.loading import load_config
from vit_adapter.config.mask_branch import drop_mask_branch
from vit_adapter.config.own_data import apply_custom_data
from vit_adapter.config.semantic_branch import drop_label_maps
from vit_adapter.config.unstated_task import fill_in_task
from vit_adapter.data.workers import explained_worker_errors
from vit_adapter.engine.best import check_best
from vit_adapter.engine.build import build_optimizer, build_seeded_model, build_train_loader
from vit_adapter.engine.compilation import compile_backbone
from vit_adapter.engine.ema import WeightAverage, build_average, restore_average
from vit_adapter.engine.evaluation import evaluate
from vit_adapter.engine.feature_cache import attach_feature_cache
from vit_adapter.engine.freezing import freeze_parameters
from vit_adapter.engine.hooks import output_hooks, training_hooks
from vit_adapter.engine.loss_normalization import LossNormalization
from vit_adapter.engine.output_dir import claim_output_dir
from vit_adapter.engine.parallel import parallelise
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.schedule import fit_schedule
from vit_adapter.engine.seeds import RunSeed
from vit_adapter.engine.setup import save_config, seed_data, set_up_logging
from vit_adapter.engine.start import load_start, load_trained
from vit_adapter.engine.trainer import Trainer

__all__ = ["build_trainer", "evaluate_checkpoint", "fit_to_data", "run", "train"]

logger = logging.getLogger(__name__)


def run(arguments: Namespace) -> None:
    """Run the command line in one process of a run.

    Args:
        arguments: parsed by :func:`vit_adapter.engine.cli.build_parser`.
    """
    cfg = load_config(arguments.config_file, arguments.overrides)
    set_up_logging(cfg, arguments)
    fit_to_data(cfg, training=not arguments.eval_only)
    if arguments.eval_only:
        evaluate_checkpoint(cfg, resume=arguments.resume)
    else:
        dataset = fit_schedule(cfg, arguments.overrides)
        train(cfg, resume=arguments.resume, dataset=dataset)


def fit_to_data(cfg: DictConfig, *, training: bool) -> None:
    """Register the data of a config, adapt its model to them, and check that both fit.

    Args:
        cfg: changed in place.
        training: whether the training data are used.

    Raises:
        UsageError, ValueError, FileNotFoundError: the data are broken, or the config does not fit
            them.
    """
    fill_in_task(cfg)
    apply_custom_data(cfg, training=training)
    drop_mask_branch(cfg)
    drop_label_maps(cfg)
    check_classes(cfg, training=training)
    if training:
        fit_statistics(cfg)


def train(cfg: DictConfig, *, resume: bool = False, dataset: Dataset | None = None) -> None:
    """Train and evaluate the model of a config; every process of a run calls this.

    Args:
        cfg: ``model, dataloader, optimizer, lr_multiplier, train``.
        resume: continue from the last checkpoint in ``train.output_dir`` if there is one;
            otherwise an earlier run there is moved to its own folder.
        dataset: the training data, if they have already been read.

    Raises:
        FloatingPointError: a loss is not finite.
        DataWorkerError: a process that reads the data died or hangs.
        Interrupted: SIGTERM or SIGUSR1 has ended the training.
        UsageError: the weights to start from are missing or do not fit.
    """
    options = cfg.train
    trainer, dataset, average = build_trainer(cfg, resume=resume, dataset=dataset)
    start_iter = trainer.start_iter
    output_dir = claim_output_dir(cfg, start_iter)
    trainer.register_hooks(output_hooks(cfg, trainer, output_dir, average))
    seed_data(options.seed, start_iter)
    if start_iter < options.max_iter:
        trainer.data_loader = build_train_loader(cfg, dataset, start_iter=start_iter)
    with explained_worker_errors(trainer.data_loader):
        trainer.train(start_iter, options.max_iter)


def build_trainer(
    cfg: DictConfig, *, resume: bool = False, dataset: Dataset | None = None
) -> tuple[Trainer, Dataset | None, WeightAverage | None]:
    """Build what a training run needs before its data loader; every process calls this.

    Nothing is written, except to ``train.feature_cache.dir``.

    Args:
        cfg, resume, dataset: as for :func:`train`.

    Returns:
        The trainer, with the hooks that take part in training and at the iteration where the run
        starts or continues; the data set for ``build_train_loader``; and the average of the
        weights, or None.

    Raises:
        UsageError: the weights to start from are missing or do not fit.
    """
    check_best(cfg)
    precision = Precision.from_config(cfg)
    run_seed = RunSeed(cfg.train)  # before anything is drawn
    loss_normalization = LossNormalization.from_config(cfg)
    model = build_seeded_model(cfg)
    logger.info("Model:\n%s", model)
    freeze_parameters(model, cfg.train.get("freeze", []))
    progress = load_start(cfg, model, resume=resume)
    dataset, cache_hooks = attach_feature_cache(cfg, model, dataset, precision)
    compile_backbone(cfg, model)
    model = parallelise(cfg, model)
    optimizer = build_optimizer(cfg, model)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        precision=precision,
        accumulate=cfg.train.get("accumulate", 1),
        log_period=cfg.train.log_period,
        loss_normalization=loss_normalization,
    )
    average = build_average(cfg, model, optimizer)
    trainer.register_hooks([run_seed, *training_hooks(cfg, model), *cache_hooks])
    if progress is not None:
        trainer.load_state_dict(progress.get("trainer") or {})
        restore_average(average, progress)
    return trainer, dataset, average


def evaluate_checkpoint(cfg: DictConfig, *, resume: bool = False) -> dict[str, dict[str, float]]:
    """Evaluate a checkpoint without training; every process of a run calls this.

    Args:
        cfg: ``train.init_checkpoint`` names the weights.
        resume: use the last checkpoint in ``train.output_dir`` instead, if there is one.

    Returns:
        What :func:`evaluate` returns.

    Raises:
        UsageError: the checkpoint is missing or does not fit, or there is no evaluator.
    """
    if cfg.dataloader.get("evaluator") is None:
        raise UsageError(
            "--eval-only needs an evaluator, but this config has none; for custom data give "
            "data.val_images together with data.val_json, with data.val_labels, or with "
            "data.val_panoptic_json and data.val_panoptic_pngs."
        )
    model = build_seeded_model(cfg)
    load_trained(cfg, model, resume=resume)
    save_config(cfg, cfg.train.output_dir, EVALUATION_CONFIG)
    return evaluate(cfg, model)
