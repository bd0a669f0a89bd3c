"""The device that a config selects."""

import torch
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.errors import UsageError

__all__ = ["resolve_device"]


def resolve_device(cfg: DictConfig) -> torch.device:
    """Return the device of ``cfg.train.device``; ``"auto"`` is CUDA if a GPU is available.

    Raises:
        UsageError: the device is unknown, or not available on this machine or in this PyTorch.
    """
    name = str(OmegaConf.select(cfg, "train.device", default="auto"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"train.device={name!r} is not a device; use auto, cpu or cuda."
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"train.device={name}, but no CUDA device is visible; use cpu or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UsageError(
            f"train.device={name} does not exist; the visible CUDA devices are 0 to {last}."
        )
    if device.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, ImportError) as error:
            raise UsageError(
                f"train.device={name} cannot be used here; use auto, cpu or cuda."
            ) from error
    return device
