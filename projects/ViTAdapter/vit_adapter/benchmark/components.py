"""Time by component of a model: ViT, spatial prior, interactions, neck, heads, post-processing."""

import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from vit_adapter.backbone.interaction import InteractionBlock
from vit_adapter.backbone.pyramid_backbone import PyramidBackbone
from vit_adapter.backbone.spatial_prior import SpatialPriorModule
from vit_adapter.backbone.trunk import ViTTrunk

__all__ = ["component_times"]

_TRUNK_METHODS = ("embed", "forward_blocks", "normalise")


def component_times(
    model: nn.Module, call: Callable[[], object], device: torch.device
) -> dict[str, float]:
    """Run an inference of a model and return the milliseconds of each component.

    Each moment counts for the innermost component that is at work, so the times add up to the whole
    call. On CUDA they are those between events of the stream.

    Args:
        model: with a module ``backbone``.
        call: runs the model.
        device: of the model.

    Returns:
        "input" (copies, normalisation and padding); of the backbone "ViT", "spatial prior",
        "interactions" and "pyramid" (what makes the output maps), as far as it has them; "neck",
        what is around the backbone, such as FPN; the other parts of the model by their attributes,
        such as "roi_heads"; and "post-processing", the rest after the first part.
    """
    clock = _Clock(device)
    with _watching(model, clock):
        clock.mark()
        call()
        clock.mark()
    return clock.read()


class _Clock:
    """Attributes time to labels on a stack.

    Args:
        device: whose time is meant.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_cuda = device.type == "cuda"
        self._stack: list[str] = []
        self._stamps: list[Any] = []
        self._labels: list[str] = []  # of the time before each stamp
        self._has_begun = False

    def mark(self) -> None:
        """Attribute the time since the last mark to the current label."""
        outside = "post-processing" if self._has_begun else "input"
        self._labels.append(self._stack[-1] if self._stack else outside)
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._stamps.append(event)
        else:
            self._stamps.append(time.perf_counter())

    def enter(self, label: str) -> None:
        """Start a component inside the current one."""
        self.mark()
        self._has_begun = True
        self._stack.append(label)

    def leave(self) -> None:
        """End the current component."""
        self.mark()
        self._stack.pop()

    def read(self) -> dict[str, float]:
        """Return the milliseconds of each label."""
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
        times: dict[str, float] = defaultdict(float)
        pairs = zip(self._stamps[:-1], self._stamps[1:], self._labels[1:], strict=True)
        for start, stop, label in pairs:
            elapsed = start.elapsed_time(stop) if self._on_cuda else 1000 * (stop - start)
            times[label] += elapsed
        return dict(times)


@contextlib.contextmanager
def _watching(model: nn.Module, clock: _Clock) -> Iterator[None]:
    """Tell the clock when components start and end."""
    with contextlib.ExitStack() as stack:
        for module, label in _find_components(model).items():
            before = module.register_forward_pre_hook(
                lambda module, inputs, label=label: clock.enter(label)
            )
            after = module.register_forward_hook(
                lambda module, inputs, outputs: clock.leave(), always_call=True
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        for trunk in model.backbone.modules():
            if isinstance(trunk, ViTTrunk):  # backbones call these methods, not the module
                for name in _TRUNK_METHODS:
                    setattr(trunk, name, _timed(getattr(trunk, name), clock, "ViT"))
                    stack.callback(delattr, trunk, name)
        yield


def _find_components(model: nn.Module) -> dict[nn.Module, str]:
    """Return the modules that are called as such, and their labels."""
    labels = {module: name for name, module in model.named_children()}
    labels[model.backbone] = "neck"
    for module in model.backbone.modules():
        if isinstance(module, SpatialPriorModule):
            labels[module] = "spatial prior"
        elif isinstance(module, InteractionBlock):
            labels[module] = "interactions"
        elif isinstance(module, PyramidBackbone):
            labels[module] = "pyramid"
    return labels


def _timed(function: Callable[..., Any], clock: _Clock, label: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        clock.enter(label)
        try:
            return function(*args, **kwargs)
        finally:
            clock.leave()

    return run
