"""Running the core of a model as a graph: compiled, or captured in a CUDA graph."""

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_adapter.layers.derived import held_for_graph
from vit_adapter.test_time.core import Core, find_core

__all__ = ["GRAPHS", "CapturedFunction", "GraphedModel", "graph_forwards"]

GraphName = Literal["compile", "cuda_graph"]
GRAPHS = ("compile", "cuda_graph")

# Each size takes seconds to minutes to compile, and memory of its own when captured.
_MOST_SIZES = 8
_WARMUP_CALLS = 3  # before a capture
_OUTPUTS = "_outputs_of_core"
_one_capture = threading.Lock()  # PyTorch captures one graph at a time in a process

Function = Callable[[Tensor], Any]


class GraphedModel(nn.Module):
    """Runs the core of a model as a graph for the first 8 sizes of images, and others as usual.

    At batch 1 a GPU computes faster than Python can launch its kernels. A graph launches them all
    at once. See :mod:`vit_adapter.test_time.core` for what is in it. A compiled graph may fuse
    operations and so round differently. Calls with gradients are as usual.

    The weights must not be written to while this object lives: a CUDA graph reads merged and folded
    copies. The model is left as it was when this object is deleted; a newer one for the same model
    takes its place. Several threads may use it, on one CUDA stream. While a CUDA graph is captured,
    at the first images of a size, no thread may wait for the whole device, as
    :func:`torch.cuda.synchronize` does.

    Args:
        model: a model or a wrapper around one; this wrapper takes over its mode.
        graph: "compile" for :func:`torch.compile`, or "cuda_graph".

    Attributes:
        model: the model that is run.

    Raises:
        ValueError: the name is unknown, or the model has no core.
    """

    def __init__(self, model: nn.Module, graph: GraphName) -> None:
        super().__init__()
        if graph not in GRAPHS:
            raise ValueError(f"graph must be one of {', '.join(GRAPHS)}, got {graph!r}")
        self.model = model
        self.training = model.training
        for module in model.modules():
            if isinstance(vars(module).get("forward"), (_Backbone, _Head)):  # of an older object
                del module.forward
        forwards = graph_forwards(find_core(model), graph)
        for module, forward in forwards.items():
            module.forward = forward
        weakref.finalize(self, _restore, forwards)

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Return what the model returns."""
        return self.model(batched_inputs)


def graph_forwards(core: Core, graph: GraphName) -> dict[nn.Module, Callable[..., Any]]:
    """Return what takes the place of ``forward`` of the modules of a core, to run it as a graph.

    Args:
        core: the core of a model.
        graph: see :class:`GraphedModel`.
    """
    forwards: dict[nn.Module, Callable[..., Any]] = {
        core.backbone: _Backbone(core, _Limited(core, _COMPILE[graph](core)))
    }
    if core.head is not None:
        forwards[core.head] = _Head(core.head.forward)
    return forwards


class CapturedFunction:
    """A function of one tensor on CUDA, captured once for each size and precision.

    Args:
        function: tensor -> any nested tuples, lists and dicts of tensors.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Tensor, Any, list[Any]]] = {}
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, images: Tensor) -> Any:
        """Return the outputs, which the next call overwrites."""
        key = _key(images)
        with torch.cuda.device(images.device):  # a thread starts with the first one
            if key not in self._graphs:
                with _one_capture:
                    self._graphs[key] = self._capture(images)
            graph, inputs, outputs, _ = self._graphs[key]
            inputs.copy_(images)
            graph.replay()
        return outputs

    def _capture(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Any, list[Any]]:
        # Not PyTorch's stream for all captures, which belongs to one device. Graphs of one stream
        # also share memory of cuBLAS, and it may go with one of them (pytorch/pytorch#193402).
        self._stream = self._stream or torch.cuda.Stream(images.device)
        with torch.inference_mode(False), torch.no_grad(), _autocast_without_cache(images):
            inputs = images.clone()
            for _ in range(_WARMUP_CALLS):  # load kernels and fill caches before the capture
                self._function(inputs)
            graph = torch.cuda.CUDAGraph()
            # Only this thread must not allocate memory by itself; others go on.
            captured = torch.cuda.graph(
                graph, stream=self._stream, capture_error_mode="thread_local"
            )
            with held_for_graph() as held, captured:
                outputs = self._function(inputs)
        # The graph may read what another thread has just cached, without waiting for its stream.
        torch.cuda.synchronize()
        return graph, inputs, outputs, held


class _Limited:
    """Computes a core by its graph for the first few sizes; the outputs belong to the caller."""

    def __init__(self, core: Core, graph: Function) -> None:
        self._core = core
        self._graph = graph
        self._sizes: set[tuple] = set()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        key = _key(images)
        with self._lock:
            if key in self._sizes or len(self._sizes) < _MOST_SIZES:
                self._sizes.add(key)
                return tuple(output.clone() for output in self._graph(images))
        return self._core(images)


class _Backbone:
    """Takes the place of a backbone's ``forward``, and computes the head's outputs as well."""

    def __init__(self, core: Core, run: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self._core = core
        self._forward = core.backbone.forward
        self._run = run

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            return self._forward(images)
        maps, outputs = self._core.restore(self._run(images))
        features = _Features(maps)
        features.outputs = outputs
        for tensor in maps.values():  # a head may be given a list of them
            setattr(tensor, _OUTPUTS, outputs)
        return features


class _Head:
    """Takes the place of a head's ``forward``, and returns what is already computed."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, features: Any, *args: Any, **options: Any) -> Any:
        if isinstance(features, _Features):
            return features.outputs
        if isinstance(features, Sequence) and hasattr(features[0], _OUTPUTS):
            return getattr(features[0], _OUTPUTS)
        return self._forward(features, *args, **options)


class _Features(dict):
    """Maps by name, and as ``outputs`` what the head makes of them."""

    outputs: Any


def _compile(function: Function) -> Function:
    def run(images: Tensor) -> Any:
        return function(images)

    # The compiler limits the graphs of one code object; those of other models must not count.
    run.__code__ = run.__code__.replace()
    return torch.compile(run, fullgraph=True, dynamic=False)


_COMPILE: dict[str, Callable[[Function], Function]] = {
    "compile": _compile,
    "cuda_graph": CapturedFunction,
}


def _key(images: Tensor) -> tuple:
    """What a graph is for: a size, a type, a precision, and whether tensors are for inference."""
    device_type = images.device.type
    autocast = torch.is_autocast_enabled(device_type)
    precision = torch.get_autocast_dtype(device_type) if autocast else None
    return tuple(images.shape), images.dtype, precision, torch.is_inference_mode_enabled()


def _autocast_without_cache(images: Tensor) -> torch.autocast:
    """The precision of the caller; a graph would go on reading weights cached and freed."""
    device_type = images.device.type
    return torch.autocast(
        device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
        cache_enabled=False,
    )


def _restore(forwards: Mapping[nn.Module, Callable[..., Any]]) -> None:
    for module, forward in forwards.items():
        if vars(module).get("forward") is forward:  # not that of a newer object
            del module.forward
