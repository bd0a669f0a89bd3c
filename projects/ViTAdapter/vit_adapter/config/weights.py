"""The weights that a config names for a whole model, and for the pre-trained ViT inside it."""

from functools import partial

from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.checkpoint.pretrained import find_trunk, load_pretrained_vit
from vit_adapter.checkpoint.trained_part import BaseWeights
from vit_adapter.config.errors import UsageError

__all__ = ["base_weights", "load_trunk", "require_weights", "stores_trained_only", "uses_average"]


def require_weights(cfg: DictConfig, given: str | None) -> None:
    """Refuse a model with random weights, which is of no use to those who receive its file.

    Args:
        cfg: ``cfg.train.init_checkpoint`` may name a checkpoint of the whole model.
        given: the checkpoint of the command line.

    Raises:
        UsageError: there is neither.
    """
    if not given and not OmegaConf.select(cfg, "train.init_checkpoint", default=""):
        raise UsageError(
            "neither --weights nor train.init_checkpoint names a checkpoint of the whole model, so "
            "its weights would be random; give --weights FILE, or the output folder of a training "
            "in place of the config"
        )


def load_trunk(cfg: DictConfig, model: nn.Module) -> None:
    """Load ``cfg.train.vit_checkpoint``, if it names one, into the plain ViT inside ``model``.

    ``cfg.train.vit_patch_resize`` says how a patch kernel of another size is resized, see
    :func:`load_pretrained_vit`.
    """
    path = OmegaConf.select(cfg, "train.vit_checkpoint", default="")
    if path:
        method = OmegaConf.select(cfg, "train.vit_patch_resize", default="pseudo_inverse")
        load_pretrained_vit(find_trunk(model), path, patch_resize=method)


def base_weights(cfg: DictConfig) -> BaseWeights:
    """The same weights, for checkpoints that leave them out."""
    source = OmegaConf.select(cfg, "train.vit_checkpoint", default="")
    return BaseWeights(source=source or "", load=partial(load_trunk, cfg))


def stores_trained_only(cfg: DictConfig) -> bool:
    """Whether the checkpoints of a run leave out those of these weights that it does not train."""
    return bool(OmegaConf.select(cfg, "train.checkpointer.trained_only", default=False))


def uses_average(cfg: DictConfig) -> bool:
    """Whether evaluation and prediction use the moving average of a checkpoint's weights."""
    key = "train.model_ema.use_ema_weights_for_eval_only"
    return bool(OmegaConf.select(cfg, key, default=False))
