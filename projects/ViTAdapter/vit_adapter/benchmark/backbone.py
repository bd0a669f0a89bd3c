"""The ViT-Adapter backbone with the operator's kernels and with `grid_sample`.

The models are those of the configs at batch size 1, with global attention as in the original's
segmentors, and random weights, which all variants share. A training step is forward, backward and a
step of AdamW, with stochastic depth switched off.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.benchmark.timing import Call, medians

__all__ = ["SIZES", "build", "forward_call", "measure", "on_grid_sample", "training_call"]

SIZES = ("tiny", "small", "base", "large")
FORCE_REFERENCE = "VIT_ADAPTER_FORCE_REFERENCE"
# Learned offsets: without them a third of the points lie exactly between two pixels.
OFFSET_NOISE = 0.3


def build(size: str, device: torch.device, mode: str = "full") -> nn.Module:
    """Build a backbone of the configs without windows, stochastic depth and process groups.

    Args:
        size: one of ``SIZES``.
        device: device of the model.
        mode: mode of the adapter.
    """
    config = model_zoo.get_config("common/models/vit_adapter")[size]
    config.norm = "BN"
    config.mode = mode
    config.vit.window_sizes = []
    config.vit.drop_path_rate = 0.0
    torch.manual_seed(0)
    model = instantiate(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("sampling_offsets.bias", "injector.gamma")):
                parameter += OFFSET_NOISE * torch.randn_like(parameter)
    return model.to(device)


@contextlib.contextmanager
def on_grid_sample() -> Iterator[None]:
    """Compute the operator with plain PyTorch in the ``with`` block."""
    before = os.environ.get(FORCE_REFERENCE)
    os.environ[FORCE_REFERENCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCE_REFERENCE]
        else:
            os.environ[FORCE_REFERENCE] = before


def with_grid_sample(call: Call) -> Call:
    """Return the call with the operator computed in plain PyTorch."""

    def wrapped() -> object:
        with on_grid_sample():
            return call()

    return wrapped


def forward_call(model: Callable[[Tensor], dict[str, Tensor]], images: Tensor) -> Call:
    """Return a call of the model without gradients."""

    def call() -> object:
        with torch.no_grad():
            return model(images)

    return call


def training_call(
    model: Callable[[Tensor], dict[str, Tensor]], parameters: list[Tensor], images: Tensor
) -> Call:
    """Return a training step whose loss is half the sum of the squared features.

    Its gradients have the memory layout of the features, as those of a head's convolutions do.
    """
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)

    def call() -> None:
        outputs = list(model(images).values())
        torch.autograd.backward(outputs, [features.detach() for features in outputs])
        optimizer.step()
        optimizer.zero_grad()

    return call


def measure(
    size: str, image_size: int, repeats: int, compiled: bool, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return "forward" and "training step" -> variant -> milliseconds."""
    model = build(size, device)
    images = torch.randn(1, 3, image_size, image_size, device=device)
    runners = {"ours": model}
    if compiled:
        runners["compiled"] = torch.compile(model, fullgraph=True)
    results = {}
    for what, training in (("forward", False), ("training step", True)):
        model.train(training)
        calls: dict[str, Call] = {}
        for name, runner in runners.items():
            if training:
                calls[name] = training_call(runner, list(model.parameters()), images)
            else:
                calls[name] = forward_call(runner, images)
        calls["grid_sample"] = with_grid_sample(calls["ours"])
        results[what] = medians(calls, repeats, device)
    return results
