"""The memory and the floating-point operations of a training step, counted on the real device.

Memory is that of tensors: every storage counts from the operation that makes it until nothing
refers to it. The work space inside an operation, the allocator's reserve and what the libraries
take (on a GPU some hundred MiB) are not seen.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from vit_adapter.benchmark.flops import flop_counter
from vit_adapter.benchmark.memory import SavedTensors
from vit_adapter.engine.precision import Precision

__all__ = ["StepCost", "count_step"]

Batch = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class StepCost:
    """What a training step of one micro-batch costs; memory in bytes.

    Attributes:
        images: images of the micro-batch.
        weights: parameters and buffers.
        gradients: of all trained parameters.
        optimizer: state of the optimizer.
        saved: what autograd keeps between forward and backward pass, each storage once, without
            weights.
        forward_peak, peak: the most that is in use at the same time in addition to weights and
            optimizer state, in the forward pass and in the whole step. They include ``saved``,
            gradients and temporary tensors.
        flops: floating-point operations of the forward pass.
    """

    images: int
    weights: int
    gradients: int
    optimizer: int
    saved: int
    forward_peak: int
    peak: int
    flops: int

    def total(self, images: int, *, kept_gradients: int = 0) -> int:
        """Estimate the memory of a step with another number of images in a micro-batch.

        Each image adds or removes its share of the forward pass; gradients are the least.

        Args:
            images: of the micro-batch.
            kept_gradients: gradients that are in use for the whole step, such as those of the
                micro-batches before.
        """
        change = (images - self.images) * self.forward_peak / self.images
        fixed = self.weights + self.optimizer + kept_gradients
        return fixed + round(max(self.gradients, self.peak + change))

    def fitting(self, available: int, *, kept_gradients: int = 0) -> int:
        """Return the largest micro-batch that fits into this much memory; 0 if none does."""
        if self.total(1, kept_gradients=kept_gradients) > available:
            return 0
        share = max(1.0, self.forward_peak / self.images)
        fixed = self.weights + self.optimizer + kept_gradients
        return max(1, math.floor(self.images + (available - fixed - self.peak) / share))


def count_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision, batch: Batch
) -> StepCost:
    """Take a training step under observation.

    Operations are observed one by one, so the step is slower than others, and the fast paths of the
    CPU are off.

    Args:
        model: in training mode; its weights are changed.
        optimizer: of the model. It has taken a step before, so its state exists.
        precision: in which the step computes.
        batch: one micro-batch.
    """
    state = [v for entry in optimizer.state.values() for v in entry.values() if torch.is_tensor(v)]
    weights = [*model.parameters(), *model.buffers()]
    optimizer.zero_grad(set_to_none=True)
    memory = _LiveMemory([*weights, *state], weights[0].device)
    saved = SavedTensors(weights)
    flops = flop_counter()
    with memory:
        with saved_tensors_hooks(saved.pack, lambda tensor: tensor), flops, precision.autocast():
            loss = sum(model(batch).values())
        forward_peak = memory.peak
        precision.scaler.scale(loss).backward()
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        precision.scaler.step(optimizer)
        precision.scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return StepCost(
        images=len(batch),
        weights=sum(tensor.nbytes for tensor in weights),
        gradients=gradients,
        optimizer=sum(tensor.nbytes for tensor in state),
        saved=saved.num_bytes,
        forward_peak=forward_peak,
        peak=memory.peak,
        flops=flops.get_total_flops(),
    )


class _LiveMemory(TorchDispatchMode):
    """Follows the bytes of all tensors on a device that operations make, until they are freed.

    Args:
        known: tensors that do not count.
        device: where tensors count.

    Attributes:
        peak: most bytes at the same time so far.
    """

    def __init__(self, known: Iterable[Tensor], device: torch.device) -> None:
        super().__init__()
        self.peak = self._current = 0
        self._device = device
        self._seen = WeakIdKeyDictionary({tensor.untyped_storage(): True for tensor in known})

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for tensor in _find_tensors(result):
            if tensor.device.type == self._device.type:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = True
        self._change(storage.nbytes())
        weakref.finalize(storage, self._change, -storage.nbytes())

    def _change(self, num_bytes: int) -> None:
        self._current += num_bytes
        self.peak = max(self.peak, self._current)


def _find_tensors(result: object) -> Iterator[Tensor]:
    """Yield the tensors in the result of an operation: a value, or lists and tuples of values."""
    if isinstance(result, list | tuple):
        for value in result:
            yield from _find_tensors(value)
    elif torch.is_tensor(result):
        yield result
