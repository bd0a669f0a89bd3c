"""Compiling the backbone for training: ``train.compile``."""

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.config.errors import UsageError

__all__ = ["compile_backbone"]


def compile_backbone(cfg: DictConfig, model: nn.Module) -> None:
    """Apply ``train.compile``: replace calls of ``model.backbone`` by compiled ones.

    The module itself stays, and so do the names in checkpoints. Heads are not compiled: what they
    compute depends on the number of objects, so they would be compiled again and again.

    Args:
        cfg: ``train.compile`` has ``enabled``, and in ``params`` keyword arguments of
            :func:`torch.compile`.
        model: on its device, without a wrapper.

    Raises:
        UsageError: the model has no backbone, or nothing can be compiled on this machine.
    """
    options = cfg.train.get("compile") or {}
    if not options.get("enabled"):
        return
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise UsageError(
            f"train.compile.enabled=True compiles the backbone, but {type(model).__qualname__} has "
            "no module named backbone; use train.compile.enabled=False."
        )
    params = OmegaConf.to_container(options.get("params") or OmegaConf.create(), resolve=True)
    _try_compiler(next(model.parameters()).device, params)
    backbone.compile(**params)


def _try_compiler(device: torch.device, params: dict[str, object]) -> None:
    """Compile a small function, so that a missing compiler is found before training starts."""
    try:
        torch.compile(lambda numbers: numbers + 1, **params)(torch.ones(2, device=device))
    except Exception as error:  # of many types, some of them private
        needed = "Triton" if device.type == "cuda" else "a C++ compiler"
        first_line = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"train.compile.enabled=True: torch.compile fails on {device.type} with params "
            f"{params}: {type(error).__name__}: {first_line}. It needs {needed}; install it, "
            "correct train.compile.params, or use train.compile.enabled=False."
        ) from error
