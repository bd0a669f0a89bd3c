"""The config of a portable folder: what prediction and evaluation need, as plain data."""

import os
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vit_adapter.config.data_checks import dataset_names
from vit_adapter.config.errors import UsageError
from vit_adapter.config.literals import literal, literals, read_literals
from vit_adapter.config.override_values import DATA_PATHS
from vit_adapter.config.saving import importable_name
from vit_adapter.config.tasks import stated_task
from vit_adapter.hub import FolderContents, FolderError, read_folder

__all__ = ["describe_model", "read_portable", "stored_metadata"]

_PLAIN = (str, int, float, bool, type(None))
_STATISTICS = ("pixel_mean", "pixel_std")
_OWN_DATA = "custom_"
"""Begins the names under which data of the user are registered."""


def describe_model(
    cfg: DictConfig, classes: Mapping[str, Any], metrics: Mapping[str, Any]
) -> FolderContents:
    """Return what a portable folder holds, apart from the weights.

    Interpolations are resolved. Settings of the training and all paths are left out. With data of
    the user, the evaluator is left out as well; it is chosen anew for the data that an evaluation
    gets.

    Args:
        cfg: a config after the number of its classes was set; not changed.
        classes: names, colours and category ids of the classes, as ``FolderContents`` holds them.
        metrics: task -> metric -> value.

    Raises:
        UsageError: the config holds objects that are not data, or does not state its task.
    """
    stated_task(cfg)
    try:
        everything = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"the config has an interpolation without a value: {error}") from error
    nodes = {
        "model": dict(everything["model"]),
        "dataloader": {
            split: everything["dataloader"].get(split) for split in ("test", "evaluator")
        },
        "data": _without_paths(everything.get("data") or {}),
        "test": everything.get("test"),
        "task": everything["task"],
    }
    if any(name.startswith(_OWN_DATA) for name in dataset_names(cfg, "test")):
        nodes["dataloader"]["test"]["dataset"]["names"] = "custom_train"  # as without test data
        nodes["dataloader"]["evaluator"] = None
    evaluator = nodes["dataloader"]["evaluator"]
    if evaluator is not None:
        evaluator.pop("output_dir", None)
    statistics = {
        key: nodes["model"].pop(key) for key in _STATISTICS if nodes["model"].get(key) is not None
    }
    return FolderContents(
        config=_plain(nodes, ""),
        classes=_plain(dict(classes), "classes"),
        preprocessing=_plain(statistics, "model"),
        metrics=_plain(dict(metrics), "metrics"),
    )


def read_portable(folder: str | os.PathLike[str]) -> DictConfig:
    """Load the config of a portable folder, whose files are compared with its manifest.

    ``train.init_checkpoint`` names its weights. ``data.metadata`` has the names, colours and
    category ids of the classes.

    Raises:
        UsageError: the folder was altered, is incomplete, or cannot be used by this version.
    """
    try:
        contents = read_folder(folder)
        nodes = _expected_nodes(contents.config, folder)
    except FolderError as error:
        raise UsageError(str(error)) from error
    nodes["model"] = {**nodes["model"], **contents.preprocessing}
    evaluator = nodes["dataloader"].get("evaluator")
    cfg = DictConfig(nodes, flags={"allow_objects": True})
    if evaluator is not None:
        cfg.dataloader.evaluator.output_dir = "${train.output_dir}/inference"
    cfg.train = {
        "output_dir": "./output",
        "init_checkpoint": literal(str(contents.weights)),
        "vit_checkpoint": "",
        "allow_mismatch": [],
        "eval_pictures": 4,
        "device": "auto",
        "seed": -1,
    }
    _fill_in_data(cfg, contents.classes)
    return cfg


def stored_metadata(cfg: DictConfig) -> dict[str, Any] | None:
    """Return the classes that :func:`read_portable` has put into a config; None if it has none.

    Returns:
        The names, RGB colours and category ids under the keys of Detectron2's metadata, such as
        ``thing_classes``.
    """
    stored = OmegaConf.select(cfg, "data.metadata")
    if stored is None:
        return None
    return {key: _read_metadata(key, value) for key, value in stored.items()}


def _read_metadata(key: str, value: ListConfig) -> Any:
    if key.endswith("_classes"):
        return read_literals(value)
    pairs_or_colors = list(map(tuple, value))
    return dict(pairs_or_colors) if key.endswith("_contiguous_id") else pairs_or_colors


def _expected_nodes(config: Mapping[str, Any], folder: str | os.PathLike[str]) -> dict[str, Any]:
    for key in ("model", "dataloader", "data", "task"):
        if not isinstance(config.get(key), dict):
            raise FolderError(f"config.json in {folder} has no {key!r}, expected a complete config")
    unknown = sorted(set(config) - {"model", "dataloader", "data", "test", "task"})
    if unknown:
        raise FolderError(f"config.json in {folder} has the unknown keys {unknown}")
    return dict(config)


def _fill_in_data(cfg: DictConfig, classes: Mapping[str, Any]) -> None:
    """Set the classes, and let the config have no data."""
    task = stated_task(cfg)
    for path in DATA_PATHS:
        key = path.partition(".")[2]
        if key in cfg.data or key.partition("_")[2] in ("images", *task.own_data.labels):
            cfg.data[key] = ""
    cfg.data.check_all = False
    names = classes.get(f"{task.kind}_classes")
    if names:
        cfg.data.classes = literals(names)
    cfg.data.metadata = {
        key: literals(value) if key.endswith("_classes") else value
        for key, value in classes.items()
    }


def _without_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    paths = {path.partition(".")[2] for path in DATA_PATHS}
    return {
        key: value
        for key, value in data.items()
        if key not in {*paths, "classes", "category_ids", "metadata", "check_all"}
    }


def _plain(value: Any, key: str) -> Any:
    """Copy nested values, which must be data, with the names of what is called."""
    if isinstance(value, Mapping):
        target = value.get("_target_")
        if target is not None:
            value = {**value, "_target_": _target_name(target, f"{key}._target_")}
        return {_text_key(name, key): _plain(value[name], f"{key}.{name}") for name in value}
    if isinstance(value, list | tuple):
        return [_plain(child, f"{key}.{index}") for index, child in enumerate(value)]
    if type(value) in _PLAIN:
        return value
    raise UsageError(
        f"{key.lstrip('.')} is a {type(value).__qualname__}, but a portable folder holds only "
        "data: numbers, texts, lists and groups of keys. Replace it in the config, or share the "
        "config file and the checkpoint."
    )


def _text_key(name: object, key: str) -> str:
    if not isinstance(name, str):
        raise UsageError(
            f"{key.lstrip('.')} has the key {name!r}, but keys in a portable folder are texts"
        )
    return name


def _target_name(target: Any, key: str) -> str:
    name = importable_name(locate(target) if isinstance(target, str) else target)
    if name is None:
        shown = getattr(target, "__qualname__", target)
        raise UsageError(
            f"{key.lstrip('.')} is {shown}, which no other program can import. A portable folder "
            "carries no code: share the config file and the checkpoint instead."
        )
    return name
