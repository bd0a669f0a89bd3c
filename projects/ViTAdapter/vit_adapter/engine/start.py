"""The weights that a run starts from, and the state of a run that is resumed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.loading import LoadReport
from vit_adapter.checkpoint.pretrained import trunk_names
from vit_adapter.checkpoint.trained_part import hash_fixed_weights
from vit_adapter.config.errors import UsageError
from vit_adapter.config.weights import (
    base_weights,
    load_trunk,
    stores_trained_only,
    uses_average,
)
from vit_adapter.engine.output_dir import describe_earlier_runs, refuse_restart
from vit_adapter.engine.torchrun import restart_count

__all__ = ["load_start", "load_trained"]

logger = logging.getLogger(__name__)


def load_start(cfg: DictConfig, model: nn.Module, *, resume: bool) -> dict[str, Any] | None:
    """Load the weights that training starts from; every process calls this.

    When resuming, they come from the last checkpoint in ``train.output_dir``, otherwise from
    ``train.init_checkpoint``, if it is given. Unless that has weights of the ViT, they come from
    ``train.vit_checkpoint``. A checkpoint of the trained part lies on top of these. Weights for RGB
    images are inflated to another number of channels.

    Args:
        cfg: the whole config; only ``train`` is read.
        model: receives the weights; without a wrapper.
        resume: whether to look for a checkpoint in ``train.output_dir``.

    Returns:
        What the checkpoint of the resumed run holds in addition to the weights, such as the state
        of the trainer; None for a new run.

    Raises:
        UsageError: the weights are missing or do not fit.
    """
    options = cfg.train
    if not resume:
        refuse_restart(options.output_dir, max(comm.all_gather(restart_count())))
    checkpointer = _build_checkpointer(cfg, model, inflate=True)
    resumed = _can_resume(checkpointer, resume)
    trained_only = stores_trained_only(cfg)
    fixed = _load_base(cfg, model) if trained_only else {}
    rest = _load(cfg, model, checkpointer, resume=resumed, with_trunk=not trained_only)
    if trained_only and hash_fixed_weights(model) != fixed:
        raise UsageError(
            "train.checkpointer.trained_only=True leaves out the fixed weights of the ViT, but the "
            "checkpoint that this run starts from has others than train.vit_checkpoint="
            f"{options.vit_checkpoint!r}. Give the weights that it was trained on, or store "
            "everything with train.checkpointer.trained_only=False."
        )
    return rest if resumed else None


def load_trained(cfg: DictConfig, model: nn.Module, *, resume: bool) -> None:
    """Load the weights to evaluate; every process calls this.

    Args:
        cfg: the whole config; only ``train`` is read.
        model: receives the weights of ``train.init_checkpoint``, and those of
            ``train.vit_checkpoint`` if the former has none of the ViT; without a wrapper.
        resume: use the last checkpoint in ``train.output_dir`` instead, if there is one.

    Raises:
        UsageError: the weights are missing or do not fit.
    """
    options = cfg.train
    checkpointer = _build_checkpointer(cfg, model, load_average=uses_average(cfg))
    resumed = _can_resume(checkpointer, resume)
    if not options.init_checkpoint and not resumed:
        raise UsageError(
            "--eval-only needs weights: give train.init_checkpoint=<file>, or --resume for the "
            f"last checkpoint in train.output_dir ({options.output_dir})."
        )
    _load(cfg, model, checkpointer, resume=resumed)


def _build_checkpointer(
    cfg: DictConfig, model: nn.Module, *, load_average: bool = False, inflate: bool = False
) -> Checkpointer:
    return Checkpointer(
        model,
        cfg.train.output_dir,
        allow_mismatch=cfg.train.allow_mismatch,
        base=base_weights(cfg),
        load_average=load_average,
        inflate=inflate,
    )


def _load_base(cfg: DictConfig, model: nn.Module) -> dict[str, str]:
    """Load the ViT that checkpoints of the trained part lie on, and hash what they leave out.

    Raises:
        UsageError: there is no such ViT, or they would leave out nothing.
    """
    if not cfg.train.get("vit_checkpoint"):
        raise UsageError(
            "train.checkpointer.trained_only=True needs train.vit_checkpoint: the weights that the "
            "checkpoints leave out are read from it."
        )
    with _named_weights():
        load_trunk(cfg, model)
    fixed = hash_fixed_weights(model)
    if not fixed:
        raise UsageError(
            "train.checkpointer.trained_only=True has no effect: all blocks of the ViT are "
            "trained. Fix them with mode=frozen, lora_rank or train.freeze, or store everything "
            "with train.checkpointer.trained_only=False."
        )
    return fixed


def _load(
    cfg: DictConfig,
    model: nn.Module,
    checkpointer: Checkpointer,
    *,
    resume: bool,
    with_trunk: bool = True,
) -> dict[str, object]:
    """Load the last checkpoint, or else the weights that ``cfg.train`` names.

    Args:
        cfg, model, checkpointer: as above.
        resume: load the last checkpoint.
        with_trunk: also load the plain ViT if there is none in the checkpoint.

    Returns:
        The rest of the checkpoint, such as the trainer's state.
    """
    with _named_weights():
        rest = checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
        if with_trunk and not resume and _lacks_trunk(model, checkpointer.report):
            load_trunk(cfg, model)
    return rest


def _lacks_trunk(model: nn.Module, report: LoadReport | None) -> bool:
    """Whether nothing of the plain ViT inside a model was loaded from a checkpoint.

    Args:
        model: after loading.
        report: of loading; None if there was no checkpoint.
    """
    if report is None:
        return True
    names = trunk_names(model)
    return bool(names) and names.isdisjoint(report.loaded)


def _can_resume(checkpointer: Checkpointer, wanted: bool) -> bool:
    """Whether there is a checkpoint to resume; the main process decides for all."""
    found = comm.all_gather(wanted and checkpointer.has_checkpoint())[0]
    if wanted and not found:
        logger.warning(
            "--resume: %s has no checkpoint to continue from.%s",
            checkpointer.save_dir,
            describe_earlier_runs(checkpointer.save_dir),
        )
    return found


@contextmanager
def _named_weights() -> Iterator[None]:
    """Report missing or unfit weights as mistakes of the command line, which names them."""
    try:
        yield
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise UsageError(str(error)) from error
