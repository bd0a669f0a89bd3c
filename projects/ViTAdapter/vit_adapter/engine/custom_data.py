"""Data of the user's own: COCO-format files given as overrides, without any Python.

``data.train_json data.train_images data.val_json data.val_images`` replace the data sets of a
config, and the number of classes follows from the files.
"""

import logging
import os
from collections.abc import Iterator

from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, ListConfig, OmegaConf

from vit_adapter.data.checks import (
    check_mask_format,
    check_num_classes,
    check_same_classes,
    class_names,
)
from vit_adapter.data.coco_format import register_coco_format
from vit_adapter.engine.config import UsageError
from vit_adapter.evaluation import build_coco_evaluator

__all__ = ["apply_custom_data", "check_classes", "dataset_names", "set_num_classes"]

logger = logging.getLogger(__name__)


def apply_custom_data(cfg: DictConfig) -> DictConfig:
    """Put the data sets that ``cfg.data`` names in the place of those of the config.

    Registers them as ``custom_train`` and ``custom_val``, changes the data set names of
    ``dataloader.train``, ``dataloader.test`` and ``dataloader.evaluator``, sets every
    ``num_classes`` of the model and stores the names of the classes as ``data.classes``. With
    training data alone, evaluation is switched off.

    Args:
        cfg: changed in place; without paths under ``data`` it stays as it is.

    Returns:
        ``cfg``.

    Raises:
        UsageError: a JSON file without its image folder or the other way round, or a model
            without ``num_classes``.
        FileNotFoundError, ValueError: broken data (see :func:`register_coco_format`), or
            different classes in the training and the validation file.
    """
    train, val = (_paths(cfg, split) for split in ("train", "val"))
    if not train and not val:
        return cfg
    if train:
        _register("custom_train", *train)
        cfg.dataloader.train.dataset.names = "custom_train"
        _read_masks_as_stored(cfg, "custom_train")
    if val:
        _register("custom_val", *val)
        cfg.dataloader.test.dataset.names = "custom_val"
        if cfg.dataloader.get("evaluator") is None:  # saved by a run without validation data
            cfg.dataloader.evaluator = L(build_coco_evaluator)(
                output_dir="${train.output_dir}/inference"
            )
        cfg.dataloader.evaluator.dataset_name = "custom_val"
    else:
        logger.warning("No data.val_json is given: the model is trained, but not evaluated.")
        # Its mapper stays: the predictor reads there how images are resized.
        cfg.dataloader.test.dataset.names = "custom_train"
        cfg.dataloader.evaluator = None
    if train and val:
        check_same_classes("custom_train", "custom_val")
    names = class_names("custom_train" if train else "custom_val")
    changed = set_num_classes(cfg.model, len(names))
    cfg.data.classes = list(names)  # for predictors, which may run where the files are not
    logger.info(
        "Own data with %d classes (%s); set %s",
        len(names), ", ".join(names), ", ".join(f"model.{key}" for key in changed),
    )
    return cfg


def set_num_classes(model: DictConfig, num_classes: int) -> list[str]:
    """Set every ``num_classes`` in a model config; those that refer to another one follow it.

    Args:
        model: the ``model`` node, changed in place.
        num_classes: number of thing classes.

    Returns:
        The keys that were set.

    Raises:
        UsageError: the model has no ``num_classes``.
    """
    changed = []
    for prefix, node in _nodes(model):
        if "num_classes" in node and not OmegaConf.is_interpolation(node, "num_classes"):
            node.num_classes = num_classes
            changed.append(f"{prefix}num_classes")
    if not changed:
        raise UsageError("own data needs a model with num_classes; this config has none.")
    return changed


def check_classes(cfg: DictConfig, *, training: bool) -> None:
    """Compare the data sets with model and mapper, before anything is trained.

    Args:
        cfg: the config; every ``num_classes`` of its model must be the same number, else the
            check is left to the model.
        training: whether the training data is used as well.

    Raises:
        ValueError: another number of classes, or masks that the mapper cannot read.
    """
    counts = {int(node.num_classes) for _, node in _nodes(cfg.model) if "num_classes" in node}
    splits = ("train", "test") if training else ("test",)
    names = {split: dataset_names(cfg, split) for split in splits}
    if len(counts) == 1:
        for name in dict.fromkeys(name for group in names.values() for name in group):
            check_num_classes(name, next(iter(counts)))
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper") or {}
    if training and mapper.get("use_instance_mask") and "instance_mask_format" in mapper:
        for name in names["train"]:
            check_mask_format(name, mapper.instance_mask_format)


def dataset_names(cfg: DictConfig, split: str) -> list[str]:
    """Names of the data sets of ``dataloader.train`` or ``dataloader.test`` (``split``)."""
    names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(names)


def _paths(cfg: DictConfig, split: str) -> tuple[str, str] | None:
    """The two paths of a split, or None if neither is given."""
    data = cfg.get("data") or {}
    json_file = str(data.get(f"{split}_json") or "")
    images = str(data.get(f"{split}_images") or "")
    if bool(json_file) != bool(images):
        given, lacking = (
            (f"data.{split}_json", f"data.{split}_images")
            if json_file
            else (f"data.{split}_images", f"data.{split}_json")
        )
        raise UsageError(f"{given} is given without {lacking}; both are needed.")
    return (os.path.abspath(json_file), os.path.abspath(images)) if json_file else None


def _register(name: str, json_file: str, images: str) -> None:
    """Register a data set under a name, in place of an earlier one."""
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_format(name, json_file, images)


def _read_masks_as_stored(cfg: DictConfig, name: str) -> None:
    """Let the training mapper read run-length masks as bitmaps, if these data hold any."""
    mapper = cfg.dataloader.train.get("mapper") or {}
    stored = MetadataCatalog.get(name).get("mask_format")
    if mapper.get("use_instance_mask") and stored == "bitmask":
        mapper.instance_mask_format = stored


def _nodes(
    node: DictConfig | ListConfig, prefix: str = ""
) -> Iterator[tuple[str, DictConfig]]:
    """Every mapping inside a config with its key and a dot, the outermost first."""
    if isinstance(node, DictConfig):
        yield prefix, node
        names = list(node.keys())
    else:
        names = list(range(len(node)))
    for name in names:
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            continue
        child = node[name]
        if isinstance(child, (DictConfig, ListConfig)):
            yield from _nodes(child, f"{prefix}{name}.")
