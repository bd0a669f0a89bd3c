"""Measuring whole models: speed in every variant, memory, operations and time by component."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from vit_adapter.benchmark.components import component_times
from vit_adapter.benchmark.failure import describe_failure
from vit_adapter.benchmark.flops import flop_counter
from vit_adapter.benchmark.memory import MEBIBYTE, peak_memory
from vit_adapter.benchmark.models import Subject, make_inputs
from vit_adapter.benchmark.profile import profile_operations
from vit_adapter.benchmark.timing import Call, milliseconds, take_turns
from vit_adapter.benchmark.variants import Variant
from vit_adapter.layers import MSDeformAttn

__all__ = ["Record", "measure_together"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Inputs = Sequence[Mapping[str, Any]]

_PERCENTILES = (50, 90, 99)
# Components are the median of this many runs, but of fewer once they have taken this long.
_COMPONENT_RUNS = 5
_ENOUGH_MS = 1000.0
_LEARNING_RATE = 1e-6


def measure_together(
    subjects: Sequence[Subject],
    variants: Sequence[Variant],
    *,
    batch_size: int,
    size: tuple[int, int],
    repeats: int,
    training: bool,
    profile: bool = False,
) -> list[Record]:
    """Measure models in all variants, which take turns.

    Args:
        subjects: the models, on the same device; training changes their weights.
        variants: ways to run each.
        batch_size: number of images.
        size: (height, width) of the images.
        repeats: runs of each model in each variant that are timed.
        training: measure a training step with AdamW instead of inference.
        profile: also find the operations that take longest.

    Returns:
        A record for each model and variant (``plain_op`` only with the operator), with the keys

        * ``config``, ``size``, ``batch_size``, ``training``, ``precision``, ``mode``, ``plain_op``;
        * ``parameters``; ``flops``, of the forward pass of one image, or None if counting failed;
        * ``memory_mib``: weights, state of the optimizer and the largest growth during a run; not
          for a captured graph, whose memory is allocated before;
        * ``times_ms`` of each run; ``latency_ms``: their percentiles "p50", "p90" and "p99";
          ``images_per_second`` at the median;
        * ``components_ms``, see :func:`component_times`; only for eager inference with kernels;
        * with ``profile`` those of :func:`profile_operations`, or ``profile_error``.

        A variant that fails has ``error``, the first line of the message, instead of figures.
    """
    torch.compiler.reset()  # otherwise another size would be compiled as a dynamic one
    device = subjects[0].device
    runs: list[_Run] = []
    for subject in subjects:
        runs += _start_all(subject, variants, batch_size, size, training)
    working = [run for run in runs if "error" not in run.record]
    # Everything has run once. A GPU needs a little longer to reach its clock rate.
    on_cuda = device.type == "cuda"
    times = take_turns(
        dict(enumerate(run.call for run in working)),
        repeats,
        partial(_time_on_cuda, device=device) if on_cuda else milliseconds,
        warm_up=3 if on_cuda else 0,
    )
    for index, run in enumerate(working):
        run.record |= _summarise(times[index], batch_size)
        variant = run.variant
        if not training and variant.mode == "eager" and not variant.plain_op:
            run.record["components_ms"] = _median_components(run, min(repeats, _COMPONENT_RUNS))
        if profile:
            run.record |= _profile(run.call, device)
    return [run.record for run in runs]


@dataclass
class _Run:
    """A model in a variant.

    Attributes:
        subject, variant: which.
        model: that of the subject, or a converted copy.
        call: runs it once.
        record: what is known of it.
    """

    subject: Subject
    variant: Variant
    model: nn.Module
    call: Call
    record: Record


def _start_all(
    subject: Subject,
    variants: Sequence[Variant],
    batch_size: int,
    size: tuple[int, int],
    training: bool,
) -> list[_Run]:
    """Run a model once in each variant, and measure its memory."""
    model = subject.model.train(training)
    inputs = make_inputs(
        batch_size,
        size,
        num_channels=subject.num_channels,
        num_classes=subject.num_classes,
        training=training,
    )
    optimizer = torch.optim.AdamW(_trained(model), lr=_LEARNING_RATE) if training else None
    common = {
        "config": subject.name,
        "size": list(size),
        "batch_size": batch_size,
        "training": training,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": _count_flops(subject, inputs),
    }
    runs = []
    has_operator = any(isinstance(module, MSDeformAttn) for module in model.modules())
    for variant in variants:
        if variant.plain_op and not has_operator:
            continue
        chosen = variant.convert(model)
        forward = variant.wrap(chosen, partial(chosen, inputs))
        call = partial(_train, forward, optimizer) if training else partial(_infer, forward)
        record = common | asdict(variant)
        try:
            if training or variant.mode != "eager":
                call()  # compiles, and makes the optimizer's state
            growth = peak_memory(call, subject.device)
            if variant.mode != "graph":
                record["memory_mib"] = (_count_bytes(chosen, optimizer) + growth) / MEBIBYTE
        except RuntimeError as error:  # of the compiler, or out of memory
            record["error"] = describe_failure(error)
        runs.append(_Run(subject, variant, chosen, call, record))
    return runs


def _profile(call: Call, device: torch.device) -> Record:
    try:
        return profile_operations(call, device)
    except RuntimeError as error:  # of the profiler; the times are known already
        return {"profile_error": describe_failure(error)}


def _infer(forward: Call) -> None:
    with torch.no_grad():
        forward()


def _train(forward: Callable[[], Mapping[str, Tensor]], optimizer: torch.optim.Optimizer) -> None:
    with EventStorage():
        losses = forward()
    sum(losses.values()).backward()
    optimizer.step()
    optimizer.zero_grad()


def _trained(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _count_flops(subject: Subject, inputs: Inputs) -> int | None:
    """Count the operations of a forward pass of one image; None if it fails."""
    trained = _trained(subject.model)
    for parameter in trained:  # the counter asks for the gradient of what requires one
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), EventStorage(), flop_counter() as counter:
            subject.model(inputs[:1])
    except RuntimeError as error:  # out of memory, where a variant of 16 bits may have enough
        logger.warning("operations of %s not counted: %s", subject.name, describe_failure(error))
        return None
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return counter.get_total_flops()


def _count_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> int:
    """Count the bytes of weights and of the optimizer's state."""
    states = [] if optimizer is None else [v for s in optimizer.state.values() for v in s.values()]
    tensors = [*model.parameters(), *model.buffers(), *filter(torch.is_tensor, states)]
    return sum(tensor.nbytes for tensor in tensors)


def _time_on_cuda(call: Call, device: torch.device) -> float:
    """Return the milliseconds until the device has finished, with the time for launching."""
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def _summarise(times: Sequence[float], batch_size: int) -> Record:
    percentiles = np.percentile(times, _PERCENTILES).tolist()
    return {
        "times_ms": list(times),
        "latency_ms": {f"p{p}": v for p, v in zip(_PERCENTILES, percentiles, strict=True)},
        "images_per_second": 1000 * batch_size / percentiles[0],
    }


def _median_components(run: _Run, repeats: int) -> dict[str, float]:
    """Return the medians of a few runs; of one if it takes long, as on a CPU."""
    measured: list[dict[str, float]] = []
    while len(measured) < repeats and sum(sum(one.values()) for one in measured) < _ENOUGH_MS:
        measured.append(component_times(run.model, run.call, run.subject.device))
    return {label: statistics.median(one[label] for one in measured) for label in measured[0]}
