"""What sums of losses are divided by: counts of objects, regions or pixels.

The published models count in the batch of one process, or average a count over the processes.
Gradients then depend on how the images of a step are spread over processes and micro-batches.
Inside :meth:`StepCounts.apply` a loss is divided by the count in all images of the step instead.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

__all__ = ["StepCounts", "loss_divisor", "rescale_means"]

_divide: Callable[[Tensor, int], Tensor] | None = None
"""Maps a count and its minimum to a divisor; None: as in the published models."""


def loss_divisor(count: Tensor, *, over_processes: bool = False, minimum: int = 1) -> Tensor:
    """Return what a sum of losses is divided by.

    A head must call this equally often for every batch, also without objects. Nothing waits for the
    device.

    Args:
        count: in the batch of this process; of any shape, the same in every process.
        over_processes: whether the published models average the count over the processes.
        minimum: smallest divisor; with :class:`StepCounts`, smallest count in all images of a step.

    Returns:
        Of the same shape, without gradients.
    """
    count = count.detach()
    if _divide is not None:
        return _divide(count, minimum)
    if over_processes and comm.get_world_size() > 1:
        count = _sum_over_processes(count) / comm.get_world_size()
    return count.clamp(min=minimum)


def rescale_means(losses: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Rescale losses that are already means over the batch of this process.

    The losses of Detectron2's heads are. They stay unchanged except inside
    :meth:`StepCounts.apply`.

    Args:
        losses: at least one, by name.
        count: number of items that they are means over.
    """
    if _divide is None:
        return dict(losses)
    items = torch.full((), float(count), device=next(iter(losses.values())).device)
    factor = items / loss_divisor(items)
    return {name: loss * factor for name, loss in losses.items()}


class StepCounts:
    """The counts in all images of one optimizer step, over micro-batches and processes.

    A divisor is the total, divided by the number of micro-batches and processes, because the
    gradients are averaged over these. A loss that does not call :func:`loss_divisor` stays the mean
    of its values.

    With one micro-batch, the counts are exchanged during the forward pass. With several, the totals
    must be known before: run all of them in :meth:`collect`, then call :meth:`share`. The calls of
    a forward pass are told from each other by their order.

    Args:
        micro_batches: how many each process has in this step.
    """

    def __init__(self, micro_batches: int = 1) -> None:
        self.micro_batches = micro_batches
        self._totals: list[Tensor] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Add the counts of one micro-batch, whose losses are not used.

        Raises:
            RuntimeError: the model asked for more or fewer divisors than for the one before.
        """
        counts: list[Tensor] = []

        def add(count: Tensor, minimum: int) -> Tensor:
            counts.append(count)
            return count.clamp(min=minimum)

        with _dividing(add):
            yield
        if self._totals and len(counts) != len(self._totals):
            raise RuntimeError(
                f"the model asked for {len(counts)} loss divisors, but for {len(self._totals)} "
                "with the micro-batch before; its heads must call loss_divisor equally often for "
                "every batch, also for one without objects"
            )
        pairs = zip(self._totals, counts, strict=True)
        self._totals = [total + count for total, count in pairs] if self._totals else counts

    def share(self) -> None:
        """Add the counts of the other processes; every process calls this."""
        self._totals = [_sum_over_processes(total) for total in self._totals]

    @contextmanager
    def apply(self) -> Iterator[None]:
        """Divide the losses of one micro-batch by the counts of the step."""
        totals = iter(self._totals)
        parts = self.micro_batches * comm.get_world_size()

        def divide(count: Tensor, minimum: int) -> Tensor:
            total = _sum_over_processes(count) if self.micro_batches == 1 else next(totals)
            return total.clamp(min=minimum) / parts

        with _dividing(divide):
            yield


@contextmanager
def _dividing(divide: Callable[[Tensor, int], Tensor]) -> Iterator[None]:
    global _divide
    before, _divide = _divide, divide
    try:
        yield
    finally:
        _divide = before


def _sum_over_processes(count: Tensor) -> Tensor:
    if comm.get_world_size() == 1:
        return count
    total = count.clone()
    dist.all_reduce(total)
    return total
