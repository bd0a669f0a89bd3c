"""Parameters, operations and memory of a run, and which batch fits on which GPU."""

from dataclasses import asdict

import torch
from torch import nn

from vit_adapter.engine.dry_run.memory import StepCost
from vit_adapter.engine.dry_run.report import Report, in_words

__all__ = ["report_memory", "report_model"]

_GPUS = (8, 16, 24)  # GiB
_RESERVED = 2**30  # of a GPU, for the libraries, their work space and fragmentation


def report_model(model: nn.Module, cost: StepCost, batch_size: tuple[int, int], report: Report):
    """Add parameters and floating-point operations.

    Args:
        model: without a wrapper.
        cost: of a step.
        batch_size: (height, width) of the padded images of the step.
        report: gets the section "model".
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_image = cost.flops / cost.images
    values = {
        "parameters": total,
        "trained": trained,
        "forward_flops_per_image": round(per_image),
        "image_size": list(batch_size),
    }
    size = f"{batch_size[1]} x {batch_size[0]} px"
    rows = [
        ("parameters", f"{total / 1e6:,.2f} M, of which {trained / 1e6:,.2f} M are trained"),
        (
            "forward pass per image",
            f"{per_image / 1e9:,.1f} GFLOP at {size} (a product and a sum are two)",
        ),
    ]
    report.add_section("model", "Model", values, rows)


def report_memory(
    cost: StepCost, report: Report, *, average: int, processes: int, accumulate: int
) -> None:
    """Add the memory of a step here, and the largest micro-batches on some GPUs.

    Args:
        cost: of a step of one micro-batch.
        report: gets the section "memory".
        average: bytes of the moving average of the weights; 0 if there is none.
        processes: of the run. DistributedDataParallel keeps a copy of the gradients.
        accumulate: micro-batches of a step. Their gradients stay in use between them.
    """
    kept = average + cost.gradients * ((processes > 1) + (accumulate > 1))
    total = cost.total(cost.images, kept_gradients=kept)
    fitting = {size: cost.fitting(size * 2**30 - _RESERVED, kept_gradients=kept) for size in _GPUS}
    values = {
        **{key: value for key, value in asdict(cost).items() if key != "flops"},
        "average_of_weights": average,
        "gradients_kept": kept - average,
        "total": total,
        "largest_micro_batch_estimated": {f"{size} GiB": n for size, n in fitting.items()},
    }
    temporary = max(0, cost.peak - cost.saved)
    rows = [
        ("weights", in_words(cost.weights)),
        ("optimizer state", in_words(cost.optimizer)),
        ("saved for the backward pass", f"{in_words(cost.saved)} for {cost.images} images"),
        ("gradients and temporary tensors", f"{in_words(temporary)} at the peak"),
        *([("moving average of the weights", in_words(average))] if average else []),
        *(
            [("gradients of other processes and micro-batches", in_words(kept - average))]
            if kept > average
            else []
        ),
        ("step in all", f"{in_words(total)} of tensors"),
        ("largest micro-batch", _describe_fitting(fitting)),
    ]
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        values["measured_peak"] = peak
        rows.append(("measured on this GPU", in_words(peak)))
    report.add_section("memory", "Memory of a step", values, rows)


def _describe_fitting(fitting: dict[int, int]) -> str:
    texts = [f"{count:,} on {size} GiB" for size, count in fitting.items()]
    return f"{', '.join(texts)} (estimated from this step, not measured)"
