"""The memory of a training step of the backbone, counted.

Counted, not sampled, so the figures are exact and the same on every machine that has the operator's
kernels. The temporary memory of single layers and the weights are not included.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from vit_adapter.benchmark.memory import SavedTensors

__all__ = ["Cost", "measure_memory"]


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
    saved = SavedTensors((*model.parameters(), *model.buffers()))
    with saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        loss = sum(features.square().mean() for features in model(images).values())
    return loss, saved.num_bytes


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
