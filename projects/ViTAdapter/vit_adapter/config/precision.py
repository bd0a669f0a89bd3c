"""The names of precisions in a config, and which of them a device can compute in."""

import logging

import torch
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import UsageError
from vit_adapter.ops.processor import computes_bfloat16

__all__ = ["PRECISIONS", "check_dtype", "testing_dtype"]

logger = logging.getLogger(__name__)

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""The 16-bit types by their names in ``train.amp.dtype``."""

_SHORT_NAMES = {"bf16": "bfloat16", "fp16": "float16"}

PRECISIONS = {"float32": None} | {short: DTYPES[name] for short, name in _SHORT_NAMES.items()}
"""The types of autocast by the short names of precisions; float32 is computed without it."""


def check_dtype(name: str, *, key: str, device_type: str, in_float32: str) -> torch.dtype:
    """Return a 16-bit type for autocast; log a warning if the device only emulates it.

    Args:
        name: "float16" or "bfloat16".
        key: config key that holds the name, for messages.
        device_type: "cpu", "cuda" or another.
        in_float32: override that computes in float32 instead, for messages.

    Raises:
        UsageError: the device cannot compute in it.
    """
    if device_type == "cpu" and name == "float16":
        raise UsageError(
            f"{key}=float16 needs CUDA; on the CPU use {key}=bfloat16 or {in_float32}."
        )
    if name == "bfloat16" and not computes_bfloat16(device_type):
        logger.warning(
            "%s=bfloat16 is only emulated on this machine's %s, which is slow; %s is faster.",
            key,
            device_type,
            in_float32 if device_type == "cpu" else f"{key}=float16",
        )
    return DTYPES[name]


def testing_dtype(cfg: DictConfig) -> torch.dtype | None:
    """Return the 16-bit type of ``test.precision``, or None for float32, the default.

    The value is "float32", or "bf16" or "fp16", which can also be written as in
    ``train.amp.dtype``: "bfloat16" and "float16".

    Args:
        cfg: only ``test.precision`` and ``train.device`` are read.

    Raises:
        UsageError: the value is unknown, or the device cannot compute in it.
    """
    given = OmegaConf.select(cfg, "test.precision", default=None) or "float32"
    name = _SHORT_NAMES.get(given, given)
    if name == "float32":
        return None
    if name not in DTYPES:
        raise UsageError(
            f"test.precision={given!r} is unknown; expected float32, bf16 (or bfloat16) or fp16 "
            "(or float16)."
        )
    return check_dtype(
        name,
        key="test.precision",
        device_type=resolve_device(cfg).type,
        in_float32="test.precision=float32",
    )
