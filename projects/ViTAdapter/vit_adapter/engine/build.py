"""Building the parts of a run from its config: model, optimizer, data."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import Dataset

from vit_adapter.config.errors import UsageError
from vit_adapter.config.model import build_model
from vit_adapter.data.records import Records
from vit_adapter.data.views import ImageViews, ViewMapper
from vit_adapter.engine.parallel import unwrap
from vit_adapter.engine.setup import seed_model

__all__ = [
    "build_optimizer",
    "build_seeded_model",
    "build_train_loader",
    "build_view_mapper",
    "read_train_data",
]

logger = logging.getLogger(__name__)


def build_seeded_model(cfg: DictConfig) -> nn.Module:
    """Build ``cfg.model`` with the initial weights that follow from ``cfg.train.seed``.

    Returns:
        What :func:`vit_adapter.config.model.build_model` returns.

    Raises:
        UsageError: an argument of the model is out of range, or the device cannot be used.
    """
    seed_model(cfg.train.seed)
    try:
        return build_model(cfg)
    except UsageError:
        raise
    except ValueError as error:  # our constructors raise it only for their arguments
        raise UsageError(f"the model of the config cannot be built: {error}") from error


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build ``cfg.optimizer`` for the parameters of a model.

    Args:
        cfg: not changed.
        model: as :func:`vit_adapter.engine.parallel.parallelise` returns it.
    """
    cfg = copy.deepcopy(cfg)
    cfg.optimizer.params.model = unwrap(model)
    return instantiate(cfg.optimizer)


def read_train_data(cfg: DictConfig) -> Dataset | None:
    """Read the data set of ``cfg.dataloader.train``, if it names one, without its images.

    Returns:
        The data set as the loader would store it: a list of records is stored compactly.
    """
    dataset = instantiate(cfg.dataloader.train.get("dataset"))
    return Records(dataset) if isinstance(dataset, list) else dataset


def build_view_mapper(cfg: DictConfig) -> ViewMapper:
    """Build the mapper of ``cfg.dataloader.train`` for the records of :class:`ImageViews`."""
    return ViewMapper(instantiate(cfg.dataloader.train.mapper))


def build_train_loader(
    cfg: DictConfig, dataset: Dataset | None = None, *, start_iter: int = 0
) -> Iterable[Sequence[Mapping[str, object]]]:
    """Build ``cfg.dataloader.train``.

    A loader that has the method ``begin``, as :class:`vit_adapter.data.TrainLoader` does, continues
    where a resumed run stopped.

    Args:
        cfg: not changed.
        dataset: its data if they have already been read, see :func:`read_train_data`, or the
            views of these data.
        start_iter: iteration at which training starts.
    """
    node = cfg.dataloader.train
    if dataset is not None:
        node = {**node, "dataset": dataset}
    if isinstance(dataset, ImageViews):
        node["mapper"] = build_view_mapper(cfg)
    loader = instantiate(node)
    if hasattr(loader, "begin"):
        loader.begin(seed=cfg.train.seed, step=start_iter)
    else:
        logger.info(
            "The training data are not read by vit_adapter.data.TrainLoader, so a run that is "
            "resumed does not continue their order: it is not exactly the run without the stop."
        )
    return loader
