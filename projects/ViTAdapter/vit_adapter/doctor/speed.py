"""The speed of the operator, compared with plain PyTorch on the same machine.

A ratio says more than a time: it depends on the instruction set, but little on the clock or on
other programs.
"""

import os
import time
from collections.abc import Callable
from functools import partial

from vit_adapter.doctor import remedies
from vit_adapter.doctor.devices import count_cores
from vit_adapter.doctor.section import Options, Section

__all__ = ["check"]

# Gain over grid_sample, forward and forward + backward: docs/ops.md, "S 512 extractor".
EXPECTED_GAINS = {"AVX-512": (43.7, 23.1), "AVX2": (22.2, 21.2), "baseline": (13.1, 19.5)}
TOO_SLOW = 1 / 3  # of the expected gain; between processors and runs it varies by a third
BUSY = 0.5  # load per core
SECONDS = 3.0  # for each of forward and forward + backward
PASSES = ("forward", "forward + backward")


def check(options: Options) -> Section:
    """Time the operator and `grid_sample` in turn, on the CPU and on the first GPU."""
    import torch

    from vit_adapter.ops import extension_info

    torch.set_num_threads(min(2, count_cores()))  # as many as the expected gains are from
    section = Section({"load per core": round(_load(), 2)})
    info = extension_info()
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        if info["backends"][device] != "kernel":
            section.facts[device] = f"not measured: computed by {info['backends'][device]}"
            continue
        gains = _measure(device)
        section.facts[device] = {
            name: f"{ours:.3g} ms, {plain / ours:.3g} times as fast as plain PyTorch"
            for name, (ours, plain) in zip(PASSES, gains, strict=True)
        }
        expected = EXPECTED_GAINS.get(info["cpu_instruction_set"])
        if device == "cpu" and expected is not None:
            section.facts["usual with " + info["cpu_instruction_set"]] = [
                f"{gain:.0f} times ({name})" for name, gain in zip(PASSES, expected, strict=True)
            ]
            _judge([plain / ours for ours, plain in gains], expected, section)
    return section


def _load() -> float:
    """The processes that ran or waited for a core in the last minute, per core."""
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0


def _judge(gains: list[float], expected: tuple[float, float], section: Section) -> None:
    """Warn if the gains are far below the measured ones of this instruction set."""
    slow = [
        f"{gain:.1f} times as fast as plain PyTorch instead of {figure:.0f} times ({name})"
        for name, gain, figure in zip(PASSES, gains, expected, strict=True)
        if gain < TOO_SLOW * figure
    ]
    if not slow:
        return
    what = f"The operator is only {' and '.join(slow)}."
    load = _load()
    if load > BUSY:
        what += f" Other programs use the processor: the load per core is {load:.1f}."
        fix = "Run the doctor again when the machine is idle."
    else:
        fix = f"{remedies.rebuild()}\nIf that does not help: {remedies.REPORT_IT}"
    section.warn(what, fix)


def _measure(device: str) -> list[tuple[float, float]]:
    """Return the times of the operator and of `grid_sample` in ms, for both passes."""
    import torch

    from vit_adapter.ops import ms_deform_attn, ms_deform_attn_reference

    # An extractor of ViT-Adapter-S at 512 x 512 pixels: queries at strides 8, 16 and 32 read a map
    # of stride 16, each near its own position.
    side, heads, points = 32, 6, 4
    draw = torch.Generator().manual_seed(0)
    axes = [(torch.arange(size) + 0.5) / size for size in (64, 32, 16)]
    centres = torch.cat([torch.cartesian_prod(axis, axis) for axis in axes])
    queries = len(centres)
    noise = torch.randn(1, queries, heads, 1, points, 2, generator=draw) * 2 / side
    locations = (centres.view(1, queries, 1, 1, 1, 2) + noise).to(device)
    weights = torch.full((1, queries, heads, 1, points), 1 / points, device=device)
    value = torch.randn(1, side * side, heads, 64, generator=draw).to(device)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]

    def call(function: Callable, *, backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            output = function(leaves[0], [(side, side)], leaves[1], leaves[2])
        if backward:
            torch.autograd.grad(output.sum(), leaves)
        if device != "cpu":
            torch.cuda.synchronize()

    functions = (ms_deform_attn, ms_deform_attn_reference)
    return [
        _time_in_turn([partial(call, function, backward=backward) for function in functions])
        for backward in (False, True)
    ]


def _time_in_turn(calls: list[Callable[[], None]]) -> tuple[float, float]:
    """Return the shortest time of each call in ms, which other programs disturb least."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()  # warm up
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times[0]) < 3:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(1000 * (time.perf_counter() - start))
    ours, plain = map(min, times)
    return ours, plain
