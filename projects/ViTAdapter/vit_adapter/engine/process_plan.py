"""Which processes a run consists of, from the command line, the config and the launcher."""

from argparse import Namespace

import torch
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.process_group import Process
from vit_adapter.engine.processes import ProcessLayout
from vit_adapter.engine.torchrun import launched_process, refuse_unconnected_processes

__all__ = ["plan_processes"]


def plan_processes(cfg: DictConfig, arguments: Namespace) -> ProcessLayout | Process:
    """Return which processes to start, or the place that a launcher has given to this process.

    Args:
        cfg: ``train.device``, ``train.accumulate`` and ``dataloader.train.total_batch_size`` are
            read.
        arguments: parsed by :func:`vit_adapter.engine.cli.build_parser`.

    Raises:
        UsageError: these processes cannot be started, or cannot share the device or the batch.
    """
    device = resolve_device(cfg)
    options = {
        "processes_per_machine": arguments.num_gpus,
        "num_machines": arguments.num_machines,
        "machine_rank": arguments.machine_rank,
        "dist_url": arguments.dist_url,
    }
    options = {name: value for name, value in options.items() if value is not None}
    processes: ProcessLayout | Process | None = launched_process(device.type)
    if processes is None:
        processes = layout = ProcessLayout(device_type=device.type, **options)
        if layout.num_machines == 1:
            refuse_unconnected_processes()
    elif options:
        raise UsageError(
            "torchrun or a similar launcher has started this process as RANK "
            f"{processes.rank} of {processes.world_size}: omit --num-gpus, --num-machines, "
            "--machine-rank and --dist-url, or start train_net.py directly with python."
        )
    _check_sharing(cfg, device, processes.world_size, training=not arguments.eval_only)
    return processes


def _check_sharing(
    cfg: DictConfig, device: torch.device, world_size: int, *, training: bool
) -> None:
    """Refuse a device or a batch that this number of processes cannot share."""
    if device.index is not None and world_size > 1:
        raise UsageError(
            f"train.device={device} is one device for {world_size} processes; use "
            f"train.device={device.type} and choose GPUs with CUDA_VISIBLE_DEVICES."
        )
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size", default=0)
    if isinstance(batch, int) and batch % world_size and training:
        raise UsageError(
            f"dataloader.train.total_batch_size={batch} cannot be divided evenly among "
            f"{world_size} processes; give a multiple of {world_size}, or use another number of "
            "processes."
        )
    accumulate = OmegaConf.select(cfg, "train.accumulate", default=1)
    if isinstance(batch, int) and batch % (world_size * accumulate) and training:
        raise UsageError(
            f"dataloader.train.total_batch_size={batch} gives each of {world_size} processes "
            f"{batch // world_size} images, which cannot be divided evenly into train.accumulate="
            f"{accumulate} micro-batches; give a total batch that is a multiple of "
            f"{world_size * accumulate}, or another train.accumulate."
        )
