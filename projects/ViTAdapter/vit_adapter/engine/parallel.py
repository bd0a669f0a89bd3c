"""How a model is spread over the processes of a run, and how its state is collected.

Only this module knows that: currently every process has a replica of the model
(DistributedDataParallel). Every process of a run must call these functions.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    "gather_model_state",
    "gather_optimizer_state",
    "gradient_exchange",
    "load_optimizer_state",
    "parallelise",
    "share_buffers",
    "unwrap",
]


def parallelise(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Wrap ``model`` so that the processes of this run train it together.

    Args:
        cfg: ``train.ddp`` holds options of DistributedDataParallel (``broadcast_buffers``,
            ``find_unused_parameters``).
        model: on its device, with the weights that the run starts from. Parameters that are not
            trained must already be frozen, so that their gradients are not exchanged.

    Returns:
        The model to train and to build the optimizer for; ``model`` itself in a single process.
    """
    if comm.get_world_size() == 1:
        return model
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
            exchanges the sum.
    """
    if enabled or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


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


def gather_model_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the complete ``state_dict()`` of a model, with plain names, for a checkpoint."""
    return unwrap(model).state_dict()


def gather_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """Return the complete ``state_dict()`` of an optimizer for a checkpoint."""
    return optimizer.state_dict()


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
    """Load the result of :func:`gather_optimizer_state`."""
    optimizer.load_state_dict(state)
