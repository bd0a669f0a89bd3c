"""How a model is spread over the processes of a run, and how its state is collected.

Only this module knows that. With ``train.parallel=ddp`` every process has a replica of the model
(DistributedDataParallel), with ``fsdp`` a part of it (:mod:`vit_adapter.engine.sharding`). Every
process of a run must call these functions.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.sharding import (
    gather,
    is_sharded,
    shard,
    shard_like,
    unsharded,
    whole_tensor,
)

__all__ = [
    "gather_state",
    "gradient_exchange",
    "is_sharded",
    "load_optimizer_state",
    "parallelise",
    "shard_like",
    "share_buffers",
    "unwrap",
    "whole_model",
    "whole_tensor",
]

_WAYS = ("ddp", "fsdp")


def parallelise(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Wrap ``model`` so that the processes of this run train it together.

    Args:
        cfg: ``train.parallel`` is "ddp" or "fsdp"; ``train.ddp`` holds options of
            DistributedDataParallel (``broadcast_buffers``, ``find_unused_parameters``).
        model: on its device, with the weights that the run starts from. Parameters that are not
            trained must already be frozen, so that their gradients are not exchanged.

    Returns:
        The model to train and to build the optimizer for; ``model`` itself in a single process.

    Raises:
        UsageError: ``train.parallel`` is unknown, or the model cannot be divided.
    """
    way = cfg.train.get("parallel", "ddp")
    if way not in _WAYS:
        raise UsageError(f"train.parallel={way!r} is unknown; expected {' or '.join(_WAYS)}.")
    if comm.get_world_size() == 1:
        return model
    if way == "fsdp":
        return shard(model)
    options = OmegaConf.to_container(cfg.train.get("ddp", OmegaConf.create({})), resolve=True)
    device = next(model.parameters()).device
    # Gloo on the CPU takes no device ids; NCCL needs that of this process.
    device_ids = [comm.get_local_rank()] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, **options)


def gradient_exchange(model: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
    """Return the context for a forward and backward pass whose gradients are exchanged or not.

    Args:
        model: the result of :func:`parallelise`.
        enabled: False only adds to the gradients of this process. The next backward pass with True
            exchanges the sum. A model that is divided keeps whole gradients until then.
    """
    if is_sharded(model):
        model.set_requires_gradient_sync(enabled)
        model.set_is_last_backward(enabled)
    elif not enabled and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


@contextmanager
def whole_model(model: nn.Module) -> Iterator[nn.Module]:
    """Give the unwrapped model, whose forward pass waits for no other process inside the context.

    Each process needs memory for all weights, also those that it does not keep.
    """
    with unsharded(model):
        yield unwrap(model)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside the wrapper of :func:`parallelise`, with plain parameter names."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def share_buffers(model: nn.Module) -> None:
    """Copy the buffers of the main process, whose model is saved in checkpoints, to all others.

    A batch norm that is not synchronised has different running statistics in each process, so
    each process would evaluate a different model.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def gather_state(state: Any) -> Any:
    """Return a state dict, or anything with state dicts inside, with whole tensors.

    Only the main process gets them, on the CPU; the others keep their pieces of a divided model.
    """
    if isinstance(state, Mapping):
        gathered: Any = copy.copy(state)  # with the module versions attached to it
        gathered.update((key, gather_state(value)) for key, value in state.items())
        return gathered
    return gather(state)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the ``state_dict()`` of an optimizer, with whole tensors; every process has it.

    It may come from a run with another number of processes.
    """
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    parameters = {
        key: parameter
        for stored, own in groups
        for key, parameter in zip(stored["params"], own["params"], strict=True)
    }
    entries = {
        key: {name: shard_like(value, parameters[key]) for name, value in values.items()}
        for key, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": entries})
