"""Data of the user's own, given as overrides, without any Python.

``data.train_images`` and ``data.val_images`` replace the data sets of a config, together with COCO
files (``data.train_json data.val_json``) or folders of label pictures (``data.train_labels
data.val_labels data.classes``), and the number of classes follows.
"""

import logging
import os
from collections.abc import Iterator

from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, ListConfig, OmegaConf

from vit_adapter.config.errors import UsageError
from vit_adapter.config.literals import literals
from vit_adapter.config.tasks import OwnDataTask, find_task, given_classes
from vit_adapter.data.checks import (
    check_has_objects,
    check_mask_format,
    check_num_classes,
    check_same_classes,
    class_names,
    label_kind,
)
from vit_adapter.data.semantic.sets import check_prepared

__all__ = [
    "apply_custom_data",
    "check_classes",
    "dataset_names",
    "register_test_data",
    "set_num_classes",
]

logger = logging.getLogger(__name__)


def apply_custom_data(cfg: DictConfig, *, training: bool = True) -> DictConfig:
    """Put the data sets that ``cfg.data`` names in the place of those of the config.

    Registers them as ``custom_train`` and ``custom_val``, changes the data set names of
    ``dataloader.train``, ``dataloader.test`` and ``dataloader.evaluator``, sets every
    ``num_classes`` of the model and stores the names of the classes as ``data.classes``. With
    training data alone, evaluation is switched off.

    Args:
        cfg: changed in place; without paths under ``data`` it stays as it is.
        training: whether the training data are used. If not, their files need not exist.

    Returns:
        ``cfg``.

    Raises:
        UsageError: labels without their image folder or the other way round, label pictures
            without ``data.classes``, or a model without ``num_classes``.
        FileNotFoundError, ValueError: broken data (see ``register_coco_format`` and
            ``register_label_folders``), or different classes in training and validation.
    """
    task = find_task(cfg)
    train, val = (_paths(cfg, split, task) for split in ("train", "val"))
    if not train and not val:
        return cfg
    if train and training:
        _register(task, "custom_train", *train, cfg)
        cfg.dataloader.train.dataset.names = "custom_train"
        _read_masks_as_stored(cfg, "custom_train")
    if val:
        _register(task, "custom_val", *val, cfg)
        had_none = dataset_names(cfg, "test") == ["custom_train"]  # saved by a run without any
        if cfg.dataloader.get("evaluator") is None and had_none:  # elsewhere null is meant
            cfg.dataloader.evaluator = task.evaluator()
        if cfg.dataloader.get("evaluator") is not None:
            cfg.dataloader.evaluator.dataset_name = "custom_val"
        cfg.dataloader.test.dataset.names = "custom_val"
    else:
        # Its mapper stays: the predictor reads there how images are resized.
        cfg.dataloader.test.dataset.names = "custom_train"
        cfg.dataloader.evaluator = None
    if training or val:
        _apply_classes(cfg, task, train=bool(train and training), val=bool(val))
    return cfg


def register_test_data(cfg: DictConfig) -> list[str]:
    """Return the names of the data sets that a config is tested on, those of the user's own ready.

    They are the training data where the config names no validation data.

    Args:
        cfg: changed in place, as by :func:`apply_custom_data`, which says what is raised.
    """
    given = OmegaConf.select(cfg, "data.val_images", default=None)
    apply_custom_data(cfg, training=not given)
    return dataset_names(cfg, "test")


def set_num_classes(model: DictConfig, num_classes: int) -> list[str]:
    """Set every ``num_classes`` in a model config; those that refer to another one follow it.

    Args:
        model: the ``model`` node, changed in place.
        num_classes: number of classes, background not counted.

    Returns:
        The keys that were set.

    Raises:
        UsageError: the model has no ``num_classes``.
    """
    changed = []
    for prefix, node in _class_counts(model):
        node.num_classes = num_classes
        changed.append(f"{prefix}num_classes")
    if not changed:
        raise UsageError("own data needs a model with num_classes; this config has none.")
    return changed


def check_classes(cfg: DictConfig, *, training: bool) -> None:
    """Compare the data sets with files, model and mapper, before anything is trained.

    Args:
        cfg: the config; every ``num_classes`` of its model must be the same number, else the
            check is left to the model.
        training: whether the training data are used. The test data are if there is an evaluator.

    Raises:
        ValueError: another number of classes, nothing to learn from, or masks that the mapper
            cannot read.
        FileNotFoundError: the folders of a public data set are not there.
    """
    counts = {int(node.num_classes) for _, node in _nodes(cfg.model) if "num_classes" in node}
    used = {"train": training, "test": cfg.dataloader.get("evaluator") is not None}
    splits = [split for split, is_used in used.items() if is_used]
    names = {split: dataset_names(cfg, split) for split in splits}
    key = next((f"model.{prefix}num_classes" for prefix, _ in _class_counts(cfg.model)), "model")
    for name in dict.fromkeys(name for group in names.values() for name in group):
        check_prepared(name)
        if len(counts) == 1:
            kind = label_kind(name)
            check_num_classes(name, next(iter(counts)), override_key=key, kind=kind)
    if training:
        for name in names["train"]:
            check_has_objects(name)
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


def _paths(cfg: DictConfig, split: str, task: OwnDataTask) -> tuple[str, str] | None:
    """The paths of labels and images of a split, or None if neither is given."""
    data = cfg.get("data") or {}
    keys = f"{split}_{task.labels}", f"{split}_images"
    labels, images = (str(data.get(key) or "") for key in keys)
    if bool(labels) != bool(images):
        given, lacking = keys if labels else reversed(keys)
        is_null = data.get(lacking, "") is None
        hint = " A path that is called null is written ./null." if is_null else ""
        raise UsageError(f"data.{given} is given without data.{lacking}; both are needed.{hint}")
    return (os.path.abspath(labels), os.path.abspath(images)) if labels else None


def _apply_classes(cfg: DictConfig, task: OwnDataTask, *, train: bool, val: bool) -> None:
    """Store the classes of the data sets that are registered, and fit the model to them."""
    names = class_names("custom_train" if train else "custom_val", kind=task.kind)
    if train and val:
        check_same_classes("custom_train", "custom_val", kind=task.kind)
    elif not train and given_classes(cfg) not in ("", names) and task.kind == "thing":
        raise ValueError(
            f"The validation data have the classes {', '.join(names)}, but the config was saved by "
            f"a training with {', '.join(given_classes(cfg))}. List the same categories with the "
            "same ids in both annotation files."
        )
    if not val:
        logger.warning(
            "No data.val_%s is given: the model is trained, but not evaluated.", task.labels
        )
    changed = set_num_classes(cfg.model, len(names))
    cfg.data.classes = literals(names)  # for predictors, which may run where the files are not
    logger.info(
        "Own data with %d classes (%s); set %s",
        len(names),
        ", ".join(names),
        ", ".join(f"model.{key}" for key in changed),
    )


def _register(task: OwnDataTask, name: str, labels: str, images: str, cfg: DictConfig) -> None:
    """Register a data set under a name, in place of an earlier one."""
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    task.register(name, labels, images, cfg)


def _read_masks_as_stored(cfg: DictConfig, name: str) -> None:
    """Let the training mapper read run-length masks as bitmaps, if these data hold any."""
    mapper = cfg.dataloader.train.get("mapper") or {}
    stored = MetadataCatalog.get(name).get("mask_format")
    if mapper.get("use_instance_mask") and stored == "bitmask":
        mapper.instance_mask_format = stored


def _class_counts(model: DictConfig) -> list[tuple[str, DictConfig]]:
    """Every mapping with a ``num_classes`` of its own, not one that refers to another."""
    return [
        (prefix, node)
        for prefix, node in _nodes(model)
        if "num_classes" in node and not OmegaConf.is_interpolation(node, "num_classes")
    ]


def _nodes(node: DictConfig | ListConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
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
