"""Ways to run the same model: precision, compiled or captured core, operator."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from vit_adapter.benchmark.backbone import on_grid_sample
from vit_adapter.config.errors import UsageError
from vit_adapter.config.precision import PRECISIONS
from vit_adapter.test_time.core import Core, find_core
from vit_adapter.test_time.graphs import CapturedFunction, GraphName, graph_forwards

__all__ = ["MODES", "VARIANT_PRECISIONS", "Variant", "check_variants", "parse_variant"]

_CONVERTED = {f"{name}-weights": dtype for name, dtype in PRECISIONS.items() if dtype is not None}
VARIANT_PRECISIONS = (*PRECISIONS, *_CONVERTED)
_GRAPHS: dict[str, GraphName] = {"compiled": "compile", "graph": "cuda_graph"}
MODES = ("eager", *_GRAPHS)

Forward = Callable[..., Any]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Variant:
    """A way to run a model.

    Attributes:
        precision: a key of ``PRECISIONS``, computed by autocast unless it is float32; or
            "bf16-weights" or "fp16-weights": converted weights, as `model.bfloat16()` makes them.
        mode: "eager"; "compiled" or "graph": the core of the model as a graph, by torch.compile or
            captured, as ``test.graph`` does it. In training, and in models without a core, it is
            the backbone; "compiled" is then what ``train.compile`` does.
        plain_op: whether the operator is computed in plain PyTorch.
    """

    precision: str = "float32"
    mode: str = "eager"
    plain_op: bool = False

    def convert(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model in 16 bits, or the model if the variant keeps its weights."""
        dtype = _CONVERTED.get(self.precision)
        return model if dtype is None else deepcopy(model).to(dtype)

    def wrap(self, model: nn.Module, call: Callable[[], _T]) -> Callable[[], _T]:
        """Return a call of the model in this way; it is compiled or captured when it first runs.

        Args:
            model: from :meth:`convert`, and in training exactly if it is when it is called.
            call: runs it.
        """
        forwards = self._forwards(model)
        device_type = next(model.parameters()).device.type
        dtype = PRECISIONS.get(self.precision)

        def run() -> _T:
            operator = on_grid_sample() if self.plain_op else contextlib.nullcontext()
            autocast = torch.autocast(device_type, dtype, enabled=dtype is not None)
            with operator, autocast, _replaced(forwards):
                return call()

        return run

    def _forwards(self, model: nn.Module) -> dict[nn.Module, Forward]:
        """Return what takes the place of ``forward`` of parts of the model."""
        if self.mode == "eager":
            return {}
        core = None if model.training else _core_of(model)
        if core is not None:
            return graph_forwards(core, _GRAPHS[self.mode])
        graph = CapturedFunction if self.mode == "graph" else partial(torch.compile, fullgraph=True)
        return {model.backbone: graph(model.backbone.forward)}


def parse_variant(text: str) -> Variant:
    """Read "PRECISION" or "PRECISION,MODE", such as "float32" or "bf16,compiled".

    Raises:
        ValueError: there is no such variant.
    """
    precision, comma, mode = text.partition(",")
    mode = mode if comma else "eager"
    if precision not in VARIANT_PRECISIONS or mode not in MODES:
        raise ValueError(
            f"{text!r} is not a variant; expected {', '.join(VARIANT_PRECISIONS)}, alone or with "
            f"{' or '.join(f',{name}' for name in MODES[1:])}, such as bf16,compiled"
        )
    return Variant(precision, mode)


def check_variants(variants: Sequence[Variant], *, device: torch.device, training: bool) -> None:
    """Refuse variants that the device or training rules out.

    Raises:
        UsageError: it does.
    """
    for variant in variants:
        if variant.precision.startswith("fp16") and (device.type == "cpu" or training):
            raise UsageError("fp16 is only measured for inference on CUDA; use bf16 or float32.")
        if variant.precision in _CONVERTED and training:
            raise UsageError(
                f"{variant.precision} is only measured for inference: training keeps its weights "
                "in float32; use bf16 or float32."
            )
        if variant.mode == "graph" and (device.type != "cuda" or training):
            raise UsageError(
                "graph is a CUDA graph for inference: it needs --device cuda, without --train."
            )


def _core_of(model: nn.Module) -> Core | None:
    try:
        return find_core(model)
    except ValueError:  # a model of another kind
        return None


@contextlib.contextmanager
def _replaced(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Let calls of modules run other functions inside the ``with`` block."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward
