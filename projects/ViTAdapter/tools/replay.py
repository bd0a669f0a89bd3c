"""Repeat a training step whose loss was not finite, and say where the first bad number appears.

    replay.py output/non_finite_0001234_process_0.pth

Such a training writes this file, and next to it one with the weights. Batch, random numbers,
weights and config are those of the step, so the losses are the same: on a CPU bit for bit, with the
PyTorch of the training; on a GPU except for rounding. With several processes this also needs losses
and norms that do not depend on the other processes.

The file is read without running code from it, but the config in it is used like a config file: give
only files that you trust. Exit status: 0 the losses are those of the training, 1 they are not, 2
the step cannot be repeated.
"""

import argparse
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
import torch
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_adapter.checkpoint import load_checkpoint_file
from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.plain_data import from_plain
from vit_adapter.config.loading import load_config
from vit_adapter.config.model import build_model
from vit_adapter.config.weights import base_weights
from vit_adapter.layers.image_random import image_seeds
from vit_adapter.layers.loss_count import StepCounts
from vit_adapter.utils.command_line import reports_errors

logger = logging.getLogger("vit_adapter.replay")

Losses = list[dict[str, float]]
"""The losses of each micro-batch by name."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Repeat a training step whose loss was not finite.",
        epilog="exit status: 0 the losses are those of the training, 1 they are not, 2 the step "
        "cannot be repeated",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="non_finite_*_process_*.pth")
    parser.add_argument("--device", help="cpu or cuda (default: as in the training)")
    return parser


def load_step(file: Path, device: str | None) -> tuple[dict[str, Any], DictConfig, nn.Module]:
    """Read a file and build its model, in the state in which it was.

    Returns:
        The content of the file, the config, and the model.

    Raises:
        ValueError, OSError: a file is missing, is another one, or does not fit the model.
    """
    step = load_checkpoint_file(file)
    if not {"micro_batches", "random_states", "config", "weights"} <= step.keys():
        raise ValueError(
            f"{file} does not hold a training step; give a file named non_finite_*_process_*.pth."
        )
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "config.yaml"
        saved.write_text(step["config"], encoding="utf-8")
        cfg = load_config(saved)
    cfg.train.device = device or step["device"]
    torch.set_num_threads(step["threads"])
    model = build_model(cfg)
    Checkpointer(model, base=base_weights(cfg)).load(str(file.parent / step["weights"]))
    model.train()
    for name in step["in_evaluation_mode"]:
        model.get_submodule(name).training = False
    return step, cfg, model


def repeat(step: Mapping[str, Any], model: nn.Module, device: str) -> Iterator[dict[str, float]]:
    """Yield the losses of each micro-batch.

    Raises:
        FloatingPointError: a check of Detectron2 found a value that is not finite.
    """
    batches = from_plain(step["micro_batches"])
    counts = StepCounts(len(batches)) if step["loss_normalization"] == "global" else None

    def forward(batch: list[dict]) -> dict[str, Tensor]:
        dtype = getattr(torch, step["autocast"] or "bfloat16")
        seeds = [inputs.get("sample_seed") for inputs in batch]
        with (
            torch.autocast(device, dtype=dtype, enabled=bool(step["autocast"])),
            image_seeds(seeds),
        ):
            return model(batch)

    with EventStorage(step["iteration"]):
        if counts is not None and len(batches) > 1:
            set_random_states(step["random_states"], device)
            for batch in batches:
                with torch.no_grad(), counts.collect():
                    forward(batch)
        set_random_states(step["random_states"], device)
        for batch in batches:
            if counts is None:
                losses = forward(batch)
            else:
                with counts.apply():
                    losses = forward(batch)
            yield {name: loss.item() for name, loss in losses.items()}


def set_random_states(states: Mapping[str, Tensor], device: str) -> None:
    """Continue the random numbers of the training."""
    torch.set_rng_state(states["cpu"])
    if device == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def watched(model: nn.Module) -> Iterator[list[str]]:
    """Give a list that gets a line for the first module with an output that is not finite."""
    found: list[str] = []

    def check(name: str, module: nn.Module, inputs: object, output: object) -> None:
        bad = [tensor for tensor in tensors_in(output) if not tensor.isfinite().all()]
        if bad and not found:
            ranges = ", ".join(map(describe_range, tensors_in(inputs)))
            found.append(
                f"first module whose output is not finite: {name} ({type(module).__name__}), "
                f"output {describe_range(bad[0])}; its inputs: {ranges or 'no tensors'}"
            )

    handles = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: check(name, module, inputs, output)
        )
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors of floating point in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield value.detach()
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from tensors_in(entry)


def describe_range(tensor: Tensor) -> str:
    """Return shape, smallest and largest finite number, and how many are not finite."""
    finite = tensor[tensor.isfinite()].float()
    numbers = f"{finite.min():.4g} to {finite.max():.4g}" if finite.numel() else "no finite number"
    bad = tensor.numel() - finite.numel()
    return f"{tuple(tensor.shape)} {numbers}" + (f", {bad} not finite" if bad else "")


def inspect_weights(model: nn.Module) -> Iterator[str]:
    """Yield a line for each parameter and buffer that is not finite, and one for the largest."""
    state = {name: value for name, value in model.state_dict().items() if value.numel()}
    state = {name: value for name, value in state.items() if value.is_floating_point()}
    for name, value in state.items():
        if not value.isfinite().all():
            yield f"weights that are not finite: {name} {describe_range(value)}"
    if state:
        name = max(state, key=lambda name: state[name].abs().nan_to_num(0.0).max().item())
        yield f"largest weight: {name} {describe_range(state[name])}"


def inspect_batch(batches: Iterable[Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Yield a line for each image, and for what is unusual about its annotations."""
    for batch in batches:
        for inputs in batch:
            file = inputs.get("file_name", "an image without a name")
            image = inputs.get("image")
            size = f": {describe_range(image.float())}" if isinstance(image, Tensor) else ""
            yield f"image {file}{size}"
            instances = inputs.get("instances")
            if instances is None:
                continue
            if not len(instances):
                yield "  no objects"
            if instances.has("gt_boxes"):
                boxes = instances.gt_boxes.tensor
                empty = (~instances.gt_boxes.nonempty()).nonzero().flatten().tolist()
                if empty:
                    yield f"  boxes without area: {boxes[empty].tolist()}"
                if not boxes.isfinite().all():
                    yield f"  boxes that are not finite: {boxes.tolist()}"
            if instances.has("gt_masks"):
                without = (~instances.gt_masks.nonempty()).nonzero().flatten().tolist()
                if without:
                    yield f"  masks without a pixel: objects {without}"


def same(one: Losses, other: Losses) -> bool:
    """Whether all losses are equal; NaN equals NaN."""
    if len(one) != len(other):
        return False
    return all(
        a.keys() == b.keys()
        and all(a[name] == b[name] or (math.isnan(a[name]) and math.isnan(b[name])) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def describe_losses(losses: Losses) -> str:
    """Return the losses of all micro-batches; those that are not finite are marked."""
    parts = [
        ", ".join(
            f"{name}={value!r}" + ("" if math.isfinite(value) else " (!)")
            for name, value in part.items()
        )
        for part in losses
    ]
    return " | ".join(parts) or "not reached"


def run(args: argparse.Namespace) -> bool:
    """Repeat a step and print what was found.

    Returns:
        Whether the losses are those of the training.

    Raises:
        ValueError, OSError: the step cannot be repeated; the message says why.
    """
    step, cfg, model = load_step(args.file, args.device)
    device = next(model.parameters()).device.type
    print(
        f"iteration {step['iteration']}, process {step['process']} of {step['num_processes']}, "
        f"learning rate {', '.join(f'{rate:.3g}' for rate in step['learning_rates'])}, "
        f"{step['autocast'] or 'float32'} on {device}"
    )
    losses: Losses = []
    error = ""
    with watched(model) as found:
        try:
            losses.extend(repeat(step, model, device))
        except FloatingPointError as stopped:
            error = str(stopped)
    print("losses of the training:", describe_losses(step["losses"]))
    print("losses now:            ", describe_losses(losses) + (f" ({error})" if error else ""))
    # After an error of the forward pass the training knows no losses of this step.
    repeated = bool(error) if not step["losses"] else same(step["losses"], losses)
    print("the step is repeated" if repeated else "the losses are others than in the training")
    for line in (
        *(found or ["every module has finite outputs: look at the loss itself"]),
        *inspect_weights(model),
        *inspect_batch(from_plain(step["micro_batches"])),
    ):
        print(line)
    return repeated


@reports_errors(logger, OSError, ValueError, TypeError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    return 0 if run(build_parser().parse_args(argv)) else 1


if __name__ == "__main__":
    sys.exit(main())
