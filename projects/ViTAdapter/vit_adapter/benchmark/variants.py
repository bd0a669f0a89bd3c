"""Ways to run the same model: precision, compiled or captured backbone, operator."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vit_adapter.benchmark.backbone import on_grid_sample
from vit_adapter.config.errors import UsageError
from vit_adapter.config.precision import PRECISIONS
from vit_adapter.test_time.graphs import CapturedFunction

__all__ = ["MODES", "Variant", "check_variants", "parse_variant"]

MODES = ("eager", "compiled", "graph")

Forward = Callable[[Tensor], Any]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Variant:
    """A way to run a model.

    Attributes:
        precision: a key of ``PRECISIONS``; 16 bits are those of autocast.
        mode: "eager"; "compiled": the backbone by torch.compile, as ``train.compile`` does it; or
            "graph": the backbone captured in a CUDA graph.
        plain_op: whether the operator is computed in plain PyTorch.
    """

    precision: str = "float32"
    mode: str = "eager"
    plain_op: bool = False

    def wrap(self, model: nn.Module, call: Callable[[], _T]) -> Callable[[], _T]:
        """Return a call of the model in this way; it is compiled or captured when it first runs."""
        backbone = model.backbone
        forward = backbone.forward
        if self.mode == "compiled":
            forward = torch.compile(forward, fullgraph=True)
        elif self.mode == "graph":
            forward = CapturedFunction(forward)
        device_type = next(model.parameters()).device.type
        dtype = PRECISIONS[self.precision]

        def run() -> _T:
            operator = on_grid_sample() if self.plain_op else contextlib.nullcontext()
            # A captured graph would go on reading weights that autocast has cached and freed.
            autocast = torch.autocast(
                device_type, dtype, enabled=dtype is not None, cache_enabled=self.mode != "graph"
            )
            with operator, autocast, _replaced_forward(backbone, forward):
                return call()

        return run


def parse_variant(text: str) -> Variant:
    """Read "PRECISION" or "PRECISION,MODE", such as "float32" or "bf16,compiled".

    Raises:
        ValueError: there is no such variant.
    """
    precision, comma, mode = text.partition(",")
    mode = mode if comma else "eager"
    if precision not in PRECISIONS or mode not in MODES:
        raise ValueError(
            f"{text!r} is not a variant; expected {', '.join(PRECISIONS)}, alone or with "
            f"{' or '.join(f',{name}' for name in MODES[1:])}, such as bf16,compiled"
        )
    return Variant(precision, mode)


def check_variants(variants: Sequence[Variant], *, device: torch.device, training: bool) -> None:
    """Refuse variants that the device or training rules out.

    Raises:
        UsageError: it does.
    """
    for variant in variants:
        if variant.precision == "fp16" and (device.type == "cpu" or training):
            raise UsageError("fp16 is only measured for inference on CUDA; use bf16 or float32.")
        if variant.mode == "graph" and (device.type != "cuda" or training):
            raise UsageError(
                "graph is a CUDA graph for inference: it needs --device cuda, without --train."
            )


@contextlib.contextmanager
def _replaced_forward(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Let calls of a module run another function inside the ``with`` block."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
