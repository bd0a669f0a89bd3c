"""Time the ViT-Adapter backbone with our operator and the same model with `grid_sample`.

    benchmark_backbone.py [--sizes tiny small base] [--image-size 512] [--threads 2] [--compile]

The models are those of the configs at batch size 1, with global attention as in the original's
segmentors, and random weights, which all variants share. A training step is forward, backward and a
step of AdamW, with stochastic depth switched off. Variants take turns, so that disturbances of the
machine affect them all; the medians are printed as a table. ``--compile`` adds the model compiled
with torch.compile, which must give a single graph.
"""

import argparse

import torch

from vit_adapter.benchmark.backbone import SIZES, measure
from vit_adapter.benchmark.machine import describe_machine


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
