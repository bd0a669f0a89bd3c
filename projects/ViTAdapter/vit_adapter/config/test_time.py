"""Test-time wrappers that a config selects, and what they need from the test data."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeVar

from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import UsageError
from vit_adapter.config.precision import testing_dtype
from vit_adapter.test_time import (
    DetectorTiles,
    DetectorViews,
    GraphedModel,
    MixedPrecision,
    MultiScaleFlip,
    SlidingWindow,
    Suppression,
)
from vit_adapter.test_time.graphs import GRAPHS

__all__ = ["loader_for_testing", "wrap_for_testing"]

_SEMANTIC = ("sliding_window", "multi_scale")
_DETECTORS = ("nms", "augmentation", "tiles")
_ALL = ("precision", "graph")
_T = TypeVar("_T")


def wrap_for_testing(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Wrap a model as ``cfg.test`` says; evaluation and prediction both use this.

    For semantic models, ``test.sliding_window`` has the arguments of :class:`SlidingWindow`, and
    ``test.multi_scale`` has those of :class:`MultiScaleFlip` and the switch ``enabled``. The
    default of ``min_side`` is the larger side of a window, the default of ``limits`` is
    ``data.test_scale``, the limits for a single scale.

    For detectors, ``test.nms`` has the arguments of :class:`Suppression`. ``test.augmentation`` has
    those of :class:`DetectorViews`, ``test.tiles`` those of :class:`DetectorTiles`, and each has
    the switch ``enabled``; both need the images of :func:`loader_for_testing`. A tile is resized
    as ``dataloader.test.mapper`` would resize an image, or as ``test.augmentation`` says.

    For all models, ``test.precision`` is what :func:`testing_dtype` reads, and ``test.graph`` is
    "none", or a name that :class:`GraphedModel` takes.

    What is absent, null or not enabled changes nothing.

    Args:
        cfg: a config of this project; only ``test``, ``task.name``, ``data.test_scale``,
            ``train.device`` and the augmentations of ``dataloader.test.mapper`` are read.
        model: its model.

    Returns:
        ``model`` itself, or a wrapper around it in the same mode.

    Raises:
        ValueError: ``test`` has unknown keys, numbers out of range, or what is not for models of
            this kind; or the device cannot compute in ``test.precision`` or ``test.graph``.
        TypeError: a wrapper for semantic models does not have an argument of this name.
    """
    options = OmegaConf.select(cfg, "test", default=None) or {}
    unknown = sorted(set(options) - {*_SEMANTIC, *_DETECTORS, *_ALL})
    if unknown:
        raise UsageError(
            f"test has the unknown keys {unknown}; expected {', '.join(_SEMANTIC)} for semantic "
            f"models, {', '.join(_DETECTORS)} for detectors, {', '.join(_ALL)} for all"
        )
    model = _wrap_semantic(cfg, options, model)
    nms = _build(Suppression, "nms", _arguments(options.get("nms")))
    augmentation, tiles = (_enabled(options.get(key)) for key in ("augmentation", "tiles"))
    if augmentation is not None or not nms.is_own:
        key = "nms" if augmentation is None else "augmentation"
        model = _build(DetectorViews, key, augmentation or {}, model=model, nms=nms)
    if tiles is not None:
        resize = [] if augmentation is not None else instantiate(_test_mapper(cfg).augmentations)
        model = _build(DetectorTiles, "tiles", tiles, model=model, augmentations=resize)
    graph = _testing_graph(cfg)
    if graph != "none":
        model = _build(GraphedModel, "graph", {}, model=model, graph=graph)
    dtype = testing_dtype(cfg)
    return model if dtype is None else MixedPrecision(model, dtype)


def loader_for_testing(cfg: DictConfig) -> DictConfig:
    """Return ``cfg.dataloader.test``, without resizing if a wrapper needs the stored images.

    Raises:
        UsageError: a wrapper needs them, but there is no mapper whose augmentations can be omitted.
    """
    options = OmegaConf.select(cfg, "test", default=None) or {}
    if all(_enabled(options.get(key)) is None for key in ("augmentation", "tiles")):
        return cfg.dataloader.test
    _test_mapper(cfg)
    loader = deepcopy(cfg.dataloader.test)
    loader.mapper.augmentations = []
    return loader


def _testing_graph(cfg: DictConfig) -> str:
    graph = OmegaConf.select(cfg, "test.graph", default=None) or "none"
    if graph not in ("none", *GRAPHS):
        raise UsageError(f"test.graph={graph!r} is unknown; expected none, {' or '.join(GRAPHS)}.")
    device = resolve_device(cfg)
    if graph == "cuda_graph" and device.type != "cuda":
        raise UsageError(
            f"test.graph=cuda_graph needs CUDA, but train.device is {device.type}; use "
            "test.graph=compile or none."
        )
    return graph


def _test_mapper(cfg: DictConfig) -> DictConfig:
    mapper = OmegaConf.select(cfg, "dataloader.test.mapper", default=None) or {}
    if "augmentations" not in mapper:
        raise UsageError(
            "test.augmentation and test.tiles resize images themselves, but the config has no "
            "dataloader.test.mapper.augmentations to use in their place"
        )
    return mapper


def _wrap_semantic(cfg: DictConfig, options: Mapping[str, Any], model: nn.Module) -> nn.Module:
    window, views = options.get("sliding_window"), _enabled(options.get("multi_scale"))
    task = OmegaConf.select(cfg, "task.name", default="semantic")
    if task != "semantic" and (window is not None or views is not None):
        raise UsageError(
            f"test.{' and test.'.join(_SEMANTIC)} are for semantic models, whose scores can be "
            f"averaged, but the config is for the task {task!r}; omit them"
        )
    min_side = 1
    if window is not None:
        model = SlidingWindow(model, **window)
        min_side = max(model.crop_size)
    if views is not None:
        limits = OmegaConf.select(cfg, "data.test_scale", default=None)
        model = MultiScaleFlip(model, **{"min_side": min_side, "limits": limits, **views})
    return model


def _arguments(node: DictConfig | None) -> dict[str, Any]:
    return {} if node is None else OmegaConf.to_container(node, resolve=True)


def _enabled(node: DictConfig | None) -> dict[str, Any] | None:
    """The arguments in a node with a switch; None if it is absent or off."""
    arguments = _arguments(node)
    return arguments if arguments.pop("enabled", False) else None


def _build(kind: type[_T], key: str, arguments: Mapping[str, Any], **others: Any) -> _T:
    """Make what the node ``test.<key>`` has the arguments of."""
    expected = [name for name in inspect.signature(kind).parameters if name not in others]
    unknown = sorted(set(arguments) - set(expected))
    if unknown:
        raise UsageError(
            f"test.{key} has the unknown keys {unknown}; expected {', '.join(expected)}"
        )
    try:
        return kind(**arguments, **others)
    except (TypeError, ValueError) as error:
        raise UsageError(f"test.{key}: {error}") from error
