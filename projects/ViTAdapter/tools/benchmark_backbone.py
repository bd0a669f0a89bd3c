"""Time the ViT-Adapter backbone with our operator and the same model with `grid_sample`.

    benchmark_backbone.py [--sizes tiny small base] [--image-size 512] [--threads 2] [--compile]

The models are those of the configs at batch size 1, with global attention as in the original's
segmentors, and random weights, which all variants share. A training step is forward, backward and a
step of AdamW, with stochastic depth switched off. Variants take turns, so that disturbances of the
machine affect them all; the medians are printed as a table. ``--compile`` adds the model compiled
with torch.compile, which must give a single graph.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator

import torch
from benchmark_timing import describe_machine, medians
from detectron2.config import instantiate
from torch import Tensor, nn

from vit_adapter import model_zoo

SIZES = ("tiny", "small", "base", "large")
FORCE_REFERENCE = "VIT_ADAPTER_FORCE_REFERENCE"
# Learned offsets: without them a third of the points lie exactly between two pixels.
OFFSET_NOISE = 0.3

Call = Callable[[], object]


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


def row(size: str, what: str, times: dict[str, float]) -> str:
    """Return a row of the table."""
    ours, reference = times["ours"], times["grid_sample"]
    cells = [size, what, f"{reference:.0f}", f"{ours:.0f}", f"{reference / ours:.2f}x"]
    if "compiled" in times:
        cells += [f"{times['compiled']:.0f}", f"{ours / times['compiled']:.2f}x"]
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str] | None = None) -> None:
    """Print one table row per model and kind of run."""
    parser = argparse.ArgumentParser(description="Time the backbone with and without the operator.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", nargs="+", default=SIZES[:3], choices=SIZES)
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    print(f"{describe_machine(device)}; {options.image_size} px, batch 1, float32, medians in ms\n")
    header = ["model", "run", "grid_sample", "ours", "gain"]
    header += ["compiled", "gain over eager"] if options.compile else []
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for size in options.sizes:
        results = measure(size, options.image_size, options.repeats, options.compile, device)
        for what, times in results.items():
            print(row(size, what, times), flush=True)


if __name__ == "__main__":
    main()
