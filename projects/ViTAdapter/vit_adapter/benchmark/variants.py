"""Ways to run the same model: precision, compiled or captured backbone, operator."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vit_adapter.benchmark.backbone import on_grid_sample
from vit_adapter.config.errors import UsageError

__all__ = ["MODES", "PRECISIONS", "Variant", "list_variants"]

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MODES = ("eager", "compiled", "graph")
_WARMUP_CALLS = 3  # before a capture

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

    @property
    def label(self) -> str:
        """What differs from float32, eager, with the operator's kernels."""
        parts = [self.precision, "" if self.mode == "eager" else self.mode]
        parts.append("plain op" if self.plain_op else "")
        return ", ".join(filter(None, parts))

    def wrap(self, model: nn.Module, call: Callable[[], _T]) -> Callable[[], _T]:
        """Return a call of the model in this way; it is compiled or captured when it first runs."""
        backbone = model.backbone
        forward = backbone.forward
        if self.mode == "compiled":
            forward = torch.compile(forward, fullgraph=True)
        elif self.mode == "graph":
            forward = _capture(forward)
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


def list_variants(
    precisions: Sequence[str],
    modes: Sequence[str],
    *,
    device: torch.device,
    training: bool,
    plain_op: bool,
) -> list[Variant]:
    """Return every combination, and with ``plain_op`` also the eager ones on plain PyTorch.

    Raises:
        UsageError: the device or training rules one of them out.
    """
    if "fp16" in precisions and (device.type == "cpu" or training):
        raise UsageError("fp16 is only measured for inference on CUDA; use bf16 or float32.")
    if "graph" in modes and (device.type != "cuda" or training):
        raise UsageError(
            "the mode graph is a CUDA graph for inference: it needs --device cuda, without --train."
        )
    variants = [Variant(*both) for both in itertools.product(precisions, modes)]
    if plain_op:
        variants += [Variant(precision, plain_op=True) for precision in precisions]
    return variants


@contextlib.contextmanager
def _replaced_forward(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Let calls of a module run another function inside the ``with`` block."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _capture(forward: Forward) -> Forward:
    """Return a function that runs ``forward`` as a CUDA graph, captured once for each size."""
    graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Tensor, Any]] = {}

    def run(images: Tensor) -> Any:
        key = (images.shape, images.dtype)
        if key not in graphs:
            graphs[key] = _capture_one(forward, images.clone())
        graph, inputs, outputs = graphs[key]
        inputs.copy_(images)
        graph.replay()
        return outputs

    return run


def _capture_one(forward: Forward, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Any]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # load kernels and make constants before the capture
        for _ in range(_WARMUP_CALLS):
            forward(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = forward(images)
    return graph, images, outputs
