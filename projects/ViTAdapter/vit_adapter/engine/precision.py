"""The precision in which a run computes."""

import logging

import torch
from omegaconf import DictConfig

from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import UsageError
from vit_adapter.ops.processor import computes_bfloat16

__all__ = ["Precision"]

logger = logging.getLogger(__name__)

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Precision:
    """Automatic mixed precision: which dtype on which device, and whether losses are scaled.

    float16 needs a scaled loss, or small gradients vanish; bfloat16 has the range of float32 and
    needs no scaling. The CPU supports only bfloat16. A dtype that the device only emulates is still
    used, with a warning.

    Args:
        enabled: False computes in float32.
        dtype: "float16" or "bfloat16".
        device_type: "cpu" or "cuda".

    Raises:
        UsageError: the dtype is unknown, or float16 on the CPU.
    """

    def __init__(self, *, enabled: bool, dtype: str, device_type: str) -> None:
        if dtype not in _DTYPES:
            raise UsageError(
                f"train.amp.dtype={dtype!r} is unknown; expected {' or '.join(_DTYPES)}."
            )
        if enabled and device_type == "cpu" and dtype == "float16":
            raise UsageError(
                "train.amp.dtype=float16 needs CUDA; on the CPU use train.amp.dtype=bfloat16 or "
                "train.amp.enabled=False."
            )
        if enabled and dtype == "bfloat16" and not computes_bfloat16(device_type):
            on_cpu = device_type == "cpu"
            faster = "train.amp.enabled=False" if on_cpu else "train.amp.dtype=float16"
            logger.warning(
                "train.amp.dtype=bfloat16 is only emulated on this machine's %s, which is slow; "
                "%s is faster.",
                device_type,
                faster,
            )
        self.enabled = enabled
        self.dtype = _DTYPES[dtype]
        self.device_type = device_type
        self.scaler = torch.amp.GradScaler(
            device_type, enabled=enabled and self.dtype == torch.float16
        )

    @classmethod
    def from_config(cls, cfg: DictConfig) -> "Precision":
        """Read ``cfg.train.amp`` (``enabled``, ``dtype``) and ``cfg.train.device``."""
        amp = cfg.train.get("amp", {})
        return cls(
            enabled=bool(amp.get("enabled", False)),
            dtype=str(amp.get("dtype", "float16")),
            device_type=resolve_device(cfg).type,
        )

    def autocast(self) -> torch.autocast:
        """Return the context for the forward pass and the losses."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled)
