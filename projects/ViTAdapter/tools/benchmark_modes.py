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

import argparse

import torch

from vit_adapter.backbone.modes import MODES
from vit_adapter.benchmark.backbone import SIZES, build, training_call
from vit_adapter.benchmark.machine import describe_machine
from vit_adapter.benchmark.memory import MEBIBYTE
from vit_adapter.benchmark.modes import Cost, measure_memory
from vit_adapter.benchmark.timing import medians


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


if __name__ == "__main__":
    main()
