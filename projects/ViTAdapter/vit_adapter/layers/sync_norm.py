"""Which batch norm a run uses: this module alone decides what "SyncBN" means."""

import logging
from typing import Any

import torch.distributed as dist
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn

__all__ = ["GlooSyncBatchNorm", "adapt_sync_batch_norm"]

logger = logging.getLogger(__name__)


class GlooSyncBatchNorm(NaiveSyncBatchNorm):
    """Batch norm over all processes on the CPU, with statistics in float32.

    Processes count by their number of maps, which may be 0. This gives the statistics of the joint
    batch if all maps have the same size.

    Args:
        arguments, options: of ``nn.BatchNorm2d``.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, stats_mode="N", **options)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, C, H, W); the dtype is kept.

        In bfloat16, which autocast gives on the CPU, ``E[x^2] - E[x]^2`` would lose all digits.
        """
        return super().forward(features.float()).to(features.dtype)


def adapt_sync_batch_norm(model: nn.Module) -> nn.Module:
    """Replace ``nn.SyncBatchNorm``, which needs CUDA, by what the run can compute.

    ==========================  ====================================
    one process                 ``nn.BatchNorm2d`` (the same numbers)
    several processes, Gloo     :class:`GlooSyncBatchNorm`
    several processes, NCCL     ``nn.SyncBatchNorm`` is kept
    ==========================  ====================================

    Parameters, buffers and their names are kept, so checkpoints are the same in all three cases.

    Args:
        model: changed in place.

    Returns:
        The model; a new module if it is itself a ``SyncBatchNorm``.
    """
    if comm.get_world_size() > 1 and dist.get_backend() == "nccl":
        return model
    replacement = nn.BatchNorm2d if comm.get_world_size() == 1 else GlooSyncBatchNorm
    if isinstance(model, nn.SyncBatchNorm):
        return _rebuild(model, replacement)
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.SyncBatchNorm):
                setattr(parent, name, _rebuild(child, replacement))
                count += 1
    if count:
        logger.info("%d SyncBatchNorm layers run as %s here.", count, replacement.__name__)
    return model


def _rebuild(norm: nn.SyncBatchNorm, replacement: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    rebuilt = replacement(
        norm.num_features,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
    )
    # The tensors themselves move over, so that ties and devices stay as they are.
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(rebuilt, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(rebuilt, name, buffer)
    return rebuilt.train(norm.training)
