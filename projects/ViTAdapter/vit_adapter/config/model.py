"""The model that a config describes."""

from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from vit_adapter.config.device import resolve_device
from vit_adapter.config.input_channels import check_statistics
from vit_adapter.layers.sync_norm import adapt_sync_batch_norm

__all__ = ["build_model"]


def build_model(cfg: DictConfig) -> nn.Module:
    """Build ``cfg.model`` on the device of ``cfg.train.device``, with its initial weights.

    Synchronised batch norm is adapted to this run (see :mod:`vit_adapter.layers.sync_norm`).

    Args:
        cfg: a config of this project; ``model`` and ``train.device`` are used.

    Returns:
        The model, not wrapped, in training mode.

    Raises:
        UsageError: the device cannot be used, or the pixel statistics are missing.
    """
    check_statistics(cfg)
    model = adapt_sync_batch_norm(instantiate(cfg.model))
    return model.to(resolve_device(cfg))
