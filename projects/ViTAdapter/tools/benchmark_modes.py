"""Measure the cost of a training step of the backbone in each mode of the adapter.

    benchmark_modes.py [--sizes tiny small base] [--image-size 512] [--repeats 3]

Models and training steps are as in benchmark_backbone.py: batch size 1, float32, global attention,
random weights. Memory is counted, not sampled, so the figures are exact and the same on every
machine that has the operator's kernels:

* activations: storage that autograd keeps between forward and backward pass, each counted once,
  without parameters;
* gradients: the buffers after the backward pass;
* optimizer: the state of AdamW after a step.

The temporary memory of single layers and the weights, which all modes share, are not included.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from benchmark_backbone import SIZES, build, training_call
from benchmark_timing import MEBIBYTE, describe_machine, medians
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from vit_adapter.backbone.modes import MODES


@dataclass(frozen=True)
class Cost:
    """The cost of a training step.

    Attributes:
        trainable: number of parameters with a gradient.
        activations, gradients, optimizer: memory in bytes.
    """

    trainable: int
    activations: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """Bytes in use between forward and backward pass once training runs."""
        return self.activations + self.gradients + self.optimizer


def saved_activations(model: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """Run the model; return the loss and the bytes of activations that autograd keeps for it."""
    own = {_address(t) for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _address(tensor) not in own:
            kept[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = sum(features.square().mean() for features in model(images).values())
    return loss, sum(kept.values())


def measure_memory(model: nn.Module, images: Tensor) -> Cost:
    """Count the bytes of one training step with AdamW."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    loss, activations = saved_activations(model, images)
    loss.backward()
    optimizer.step()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    states = [value for state in optimizer.state.values() for value in state.values()]
    cost = Cost(
        trainable=sum(parameter.numel() for parameter in parameters),
        activations=activations,
        gradients=sum(gradient.nbytes for gradient in gradients),
        optimizer=sum(value.nbytes for value in states if torch.is_tensor(value)),
    )
    optimizer.zero_grad()
    return cost


def row(size: str, mode: str, cost: Cost, milliseconds: float) -> str:
    """Return a row of the table."""
    sizes = (cost.activations, cost.gradients, cost.optimizer, cost.total)
    cells = [size, mode, f"{cost.trainable / 1e6:.1f}"]
    cells += [f"{value / MEBIBYTE:.0f}" for value in sizes]
    return "| " + " | ".join([*cells, f"{milliseconds:.0f}"]) + " |"


def main(arguments: list[str] | None = None) -> None:
    """Print one table row per model and mode."""
    parser = argparse.ArgumentParser(description="Measure the cost of training in each mode.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", nargs="+", default=SIZES[:3], choices=SIZES)
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    side = options.image_size
    images = torch.randn(1, 3, side, side, device=device)
    print(f"{describe_machine(device)}; {side} px, batch 1, float32\n")
    columns = ["model", "mode", "trainable (M)", "activations (MiB)", "gradients (MiB)"]
    columns += ["optimizer (MiB)", "sum (MiB)", "training step (ms)"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for size in options.sizes:
        models = {mode: build(size, device, mode).train() for mode in MODES}
        costs = {mode: measure_memory(model, images) for mode, model in models.items()}
        steps = {
            mode: training_call(model, [p for p in model.parameters() if p.requires_grad], images)
            for mode, model in models.items()
        }
        times = medians(steps, options.repeats, device)
        for mode, cost in costs.items():
            print(row(size, mode, cost, times[mode]), flush=True)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


if __name__ == "__main__":
    main()
