"""A model whose weights, gradients and optimizer state are divided among the processes (FSDP2).

Each tensor is cut along its first dimension, and each process keeps one piece, as a ``DTensor``.
The parts that a model names in ``sharding_units()`` are gathered one at a time, while they run; the
rest is gathered for the whole step.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from vit_adapter.config.errors import UsageError

try:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # before PyTorch 2.6
    fully_shard, DTensor = None, ()

__all__ = ["gather", "is_sharded", "shard", "shard_like", "unsharded", "whole_tensor"]

logger = logging.getLogger(__name__)


def shard(model: nn.Module) -> nn.Module:
    """Divide a model among the processes of this run; every process calls this.

    All start from the weights of the main process. Computations are those of
    DistributedDataParallel: weights are gathered in the dtype in which they are stored, autocast
    rounds them as they are used, and gradients are averaged in that same dtype.

    Args:
        model: changed in place, on its device. Names of parameters do not change.

    Returns:
        The same model.

    Raises:
        UsageError: this version of PyTorch has no FSDP2, or the model has parameters that cannot be
            divided.
    """
    if fully_shard is None:
        raise UsageError(
            "train.parallel=fsdp needs PyTorch 2.6 or later, which has fully_shard; this is "
            f"{torch.__version__}. Update PyTorch, or use train.parallel=ddp."
        )
    _refuse_scalars(model)
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    device_type = next(model.parameters()).device.type
    mesh = init_device_mesh(device_type, (comm.get_world_size(),))
    units = {
        unit
        for module in model.modules()
        if hasattr(module, "sharding_units")
        for unit in module.sharding_units()
    }
    for module in reversed(list(model.modules())):  # inner parts first
        if module in units and module is not model:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    logger.info(
        "train.parallel=fsdp: this process keeps %.1f M of %.1f M parameters, and gathers %d parts "
        "one at a time.",
        sum(parameter.to_local().numel() for parameter in model.parameters()) / 1e6,
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        len(units),
    )
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` has divided this model."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Keep the whole model in every process, so that its forward pass waits for no other process.

    Every process enters the context. It changes nothing for a model that is not divided.
    """
    units = [module for module in model.modules() if hasattr(module, "unshard")]
    for unit in units:
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def gather(value: object) -> object:
    """Return a piece of a tensor as the whole tensor, on the CPU; every process calls this.

    Only the main process keeps it; the others return their pieces, as anything else is returned.
    """
    if not isinstance(value, DTensor):
        return value
    whole = whole_tensor(value)
    return whole.cpu() if comm.is_main_process() else value


def whole_tensor(value: Tensor) -> Tensor:
    """Return a tensor that was computed from divided tensors, such as their norm, in every process.

    Every process calls this.
    """
    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(value: object, parameter: Tensor) -> object:
    """Divide an entry of the optimizer state of a parameter, unless it has another shape."""
    if not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    if not (isinstance(parameter, DTensor) and value.shape == parameter.shape):
        return value
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements
    )


def _refuse_scalars(model: nn.Module) -> None:
    names = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    if names:
        raise UsageError(
            f"train.parallel=fsdp cannot divide parameters that are a single number, and this "
            f"model has {len(names)} of them ({names[0]}, ...). Use train.parallel=ddp."
        )
