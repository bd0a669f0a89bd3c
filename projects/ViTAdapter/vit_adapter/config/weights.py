"""The pre-trained weights that a config names for the ViT inside its model."""

from functools import partial

from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.checkpoint.pretrained import find_trunk, load_pretrained_vit
from vit_adapter.checkpoint.trained_part import BaseWeights

__all__ = ["base_weights", "load_trunk", "stores_trained_only", "uses_average"]


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
