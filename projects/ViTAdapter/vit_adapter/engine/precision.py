"""The precision in which a run computes."""

import torch
from omegaconf import DictConfig

from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import UsageError
from vit_adapter.config.precision import DTYPES, check_dtype

__all__ = ["Precision"]


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
        if dtype not in DTYPES:
            raise UsageError(
                f"train.amp.dtype={dtype!r} is unknown; expected {' or '.join(DTYPES)}."
            )
        if enabled:
            check_dtype(
                dtype,
                key="train.amp.dtype",
                device_type=device_type,
                in_float32="train.amp.enabled=False",
            )
        self.enabled = enabled
        self.dtype = DTYPES[dtype]
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
