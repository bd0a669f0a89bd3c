"""Fake tensors on CUDA, with a size, a dtype and a device but no numbers, and fake streams."""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALLOCATIONS = {"empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view"}


class Launches(TorchDispatchMode):
    """Counts the operations on CUDA tensors that are neither views nor allocations."""

    count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        tensors = [output for output in tree_leaves(result) if isinstance(output, Tensor)]
        works = not op.is_view and op._schema.name.removeprefix("aten::") not in ALLOCATIONS
        self.count += works and any(tensor.is_cuda for tensor in tensors)
        return result


def move_to_fake_cuda(module: nn.Module) -> nn.Module:
    """Do what `module.cuda()` would: replace parameters and buffers, and nothing else."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                part._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return module


class FakeStream:
    """A CUDA stream that only notes the events that it records and waits for."""

    current: "FakeStream | None" = None

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.events: list[object] = []
        self.waited_for: list[object] = []

    def record_event(self) -> object:
        """Note and return a new event."""
        self.events.append(object())
        return self.events[-1]

    def wait_event(self, event: object) -> None:
        """Note the event."""
        self.waited_for.append(event)
