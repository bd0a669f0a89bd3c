"""Building what a run needs from its config: model, optimizer, data, data-parallel wrapper."""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from vit_adapter.checkpoint.pretrained import find_trunk, load_pretrained_vit

__all__ = [
    "build_optimizer",
    "build_train_loader",
    "load_trunk",
    "read_train_data",
    "wrap_model",
]


def load_trunk(cfg: DictConfig, model: nn.Module) -> None:
    """Load ``cfg.train.vit_checkpoint``, if it names one, into the plain ViT inside ``model``.

    ``cfg.train.vit_patch_resize`` says how a patch kernel of another size is resized, see
    :func:`load_pretrained_vit`.
    """
    path = OmegaConf.select(cfg, "train.vit_checkpoint", default="")
    if path:
        method = OmegaConf.select(cfg, "train.vit_patch_resize", default="pseudo_inverse")
        load_pretrained_vit(find_trunk(model), path, patch_resize=method)


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build ``cfg.optimizer`` for the parameters of ``model``; ``cfg`` stays as it is."""
    cfg = copy.deepcopy(cfg)
    cfg.optimizer.params.model = model
    return instantiate(cfg.optimizer)


def read_train_data(cfg: DictConfig) -> Dataset | None:
    """Read the data set of ``cfg.dataloader.train``, if that names one, without its images.

    Returns:
        What the loader would make of it: a list of records is stored compactly.
    """
    dataset = instantiate(cfg.dataloader.train.get("dataset"))
    return DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset


def build_train_loader(
    cfg: DictConfig, dataset: Dataset | None = None
) -> Iterable[Sequence[Mapping[str, object]]]:
    """Build ``cfg.dataloader.train``.

    Args:
        cfg: stays as it is.
        dataset: its data if they have been read already, see :func:`read_train_data`.
    """
    node = cfg.dataloader.train
    return instantiate(node if dataset is None else {**node, "dataset": dataset})


def wrap_model(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Wrap ``model`` by DistributedDataParallel if there are several processes.

    Args:
        cfg: ``train.ddp`` holds options of the wrapper (``broadcast_buffers``,
            ``find_unused_parameters``).
        model: on its device.
    """
    if comm.get_world_size() == 1:
        return model
    options = OmegaConf.to_container(cfg.train.get("ddp", OmegaConf.create({})), resolve=True)
    device = next(model.parameters()).device
    # Gloo on the CPU wants no device ids, NCCL wants the one of this process.
    device_ids = [comm.get_local_rank()] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, **options)
