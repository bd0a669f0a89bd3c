"""Numbers of training steps that stay on the device until several steps are read together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor

__all__ = ["LossValues", "StepMetrics"]


@dataclass(frozen=True)
class LossValues:
    """The losses of a micro-batch, without their graph.

    Attributes:
        names: L names.
        values: (L,), on the device of the losses.
    """

    names: tuple[str, ...]
    values: Tensor

    @classmethod
    def of(cls, losses: Mapping[str, Tensor]) -> "LossValues":
        """Stack losses of one element each.

        Losses on another device may include a constant on the CPU, because a sum allows it.
        """
        tensors = [loss.detach().reshape(()) for loss in losses.values()]
        device = max((one.device for one in tensors), key=lambda device: device.type != "cpu")
        # Without non_blocking the copy of a constant would wait for the device.
        tensors = [one.to(device, non_blocking=True) for one in tensors]
        return cls(tuple(losses), torch.stack(tensors))

    def read(self) -> dict[str, float]:
        """Return the numbers; this waits for the device."""
        return dict(zip(self.names, self.values.tolist(), strict=True))


@dataclass
class _Step:
    """What one process knows of one iteration."""

    iteration: int
    data_time: float
    losses: Sequence[LossValues]  # of each micro-batch
    scalars: dict[str, Tensor] = field(default_factory=dict)


class StepMetrics:
    """Collects the losses of training steps, and reads those of several steps in one transfer.

    Reading a number waits until the device has computed it, so a loop that reads one in every step
    leaves the device without work.
    """

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def add_step(self, iteration: int, data_time: float, losses: Sequence[LossValues]) -> None:
        """Add an iteration.

        Args:
            iteration: its number.
            data_time: seconds spent waiting for its batch.
            losses: those of each micro-batch.
        """
        self._steps.append(_Step(iteration, data_time, losses))

    def add_scalars(self, **scalars: Tensor) -> None:
        """Add numbers of the iteration that was added last, each a tensor of one element."""
        self._steps[-1].scalars.update(scalars)

    def write(self, storage: EventStorage) -> None:
        """Record all iterations that were added, in the main process; every process calls this.

        Each is recorded under its own number: losses are means over micro-batches and processes,
        other numbers means over processes, and ``data_time`` is that of the slowest process.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        gathered = comm.gather((_read(steps), [step.data_time for step in steps]))
        if not gathered:  # not the main process
            return
        current = storage.iter
        for index, step in enumerate(steps):
            storage.iter = step.iteration
            storage.put_scalar("data_time", max(times[index] for _, times in gathered))
            losses, scalars = (
                _mean([numbers[index][kind] for numbers, _ in gathered]) for kind in range(2)
            )
            storage.put_scalar("total_loss", sum(losses.values()))
            if len(losses) > 1:
                storage.put_scalars(**losses)
            storage.put_scalars(**scalars)
        storage.iter = current


def _read(steps: Sequence[_Step]) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return the mean losses and the scalars of each step."""
    vectors = [part.values for step in steps for part in step.losses]
    vectors += [value.detach().reshape(1) for step in steps for value in step.scalars.values()]
    numbers = iter(torch.cat(vectors).tolist())  # the only transfer
    losses = [
        _mean([{name: next(numbers) for name in part.names} for part in step.losses])
        for step in steps
    ]
    scalars = [{name: next(numbers) for name in step.scalars} for step in steps]
    return list(zip(losses, scalars, strict=True))


def _mean(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each name over the entries that have it."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    values = {name: [entry[name] for entry in entries if name in entry] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}
