"""Custom data sets, given as overrides without writing any Python.

``data.train_images`` and ``data.val_images`` replace the data sets of a config, together with COCO
files (``data.train_json data.val_json``) or folders of label maps (``data.train_labels
data.val_labels data.classes``). The number of classes is set accordingly.
"""

import logging
import os
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.data_checks import dataset_names
from vit_adapter.config.errors import UsageError
from vit_adapter.config.literals import literals
from vit_adapter.config.override_values import DATA_PATHS
from vit_adapter.config.tasks import OwnData, Task, given_classes, set_num_classes, stated_task
from vit_adapter.data.catalog import unregister
from vit_adapter.data.checks import check_same_classes, class_names

__all__ = ["apply_custom_data", "register_test_data"]

logger = logging.getLogger(__name__)


def apply_custom_data(cfg: DictConfig, *, training: bool = True) -> DictConfig:
    """Replace the data sets of a config by those that ``cfg.data`` names.

    Registers them as ``custom_train`` and ``custom_val``, changes the data set names of
    ``dataloader.train``, ``dataloader.test`` and ``dataloader.evaluator``, sets the number of
    classes under the key ``task.num_classes`` and stores the class names as ``data.classes``.
    Evaluation is switched off if only training data are given.

    Args:
        cfg: changed in place; unchanged if there are no paths under ``data``.
        training: whether the training data are used. If not, their files need not exist.

    Returns:
        ``cfg``.

    Raises:
        UsageError: labels are given without their image folder or vice versa, label maps without
            ``data.classes``, labels of another task, or the config does not state its task.
        FileNotFoundError, ValueError: the data are broken (see ``register_coco_format`` and
            ``register_label_folders``), or training and validation have different classes.
    """
    given = sorted(key for key in DATA_PATHS if OmegaConf.select(cfg, key))
    if not given:
        return cfg
    task = stated_task(cfg)
    own = _own_data(task, given)
    train, val = (_paths(cfg, split, own.labels) for split in ("train", "val"))
    if train and training:
        _register(own, "custom_train", *train, cfg)
        cfg.dataloader.train.dataset.names = "custom_train"
        _read_masks_as_stored(cfg, "custom_train")
    if val:
        _register(own, "custom_val", *val, cfg)
        had_none = dataset_names(cfg, "test") == ["custom_train"]  # saved by a run without it
        if cfg.dataloader.get("evaluator") is None and had_none:  # otherwise null is on purpose
            cfg.dataloader.evaluator = own.evaluator()
        if cfg.dataloader.get("evaluator") is not None:
            cfg.dataloader.evaluator.dataset_name = "custom_val"
        cfg.dataloader.test.dataset.names = "custom_val"
    else:
        # Its mapper stays: the predictor reads from it how images are resized.
        cfg.dataloader.test.dataset.names = "custom_train"
        cfg.dataloader.evaluator = None
    if training or val:
        _apply_classes(cfg, task, train=bool(train and training), val=bool(val))
    return cfg


def register_test_data(cfg: DictConfig) -> list[str]:
    """Register custom data and return the names of the data sets that a config is tested on.

    Without validation data these are the training data.

    Args:
        cfg: changed in place by :func:`apply_custom_data`, which may raise its errors.
    """
    given = OmegaConf.select(cfg, "data.val_images", default=None)
    apply_custom_data(cfg, training=not given)
    return dataset_names(cfg, "test")


def _own_data(task: Task, given: Sequence[str]) -> OwnData:
    """Return how the data of a task are given; refuse keys of another task."""
    if task.own_data is None:
        raise UsageError(
            f"the config is for the task {task.name!r}, whose data cannot be given as paths such "
            "as data.train_images; register them by name in Detectron2's catalogs."
        )
    labels = task.own_data.labels
    others = [key for key in given if not key.endswith(("_images", f"_{labels}"))]
    if others:
        raise UsageError(
            f"{' and '.join(others)} cannot be used: the config is for the task {task.name!r}, "
            f"which needs data.train_{labels} and data.val_{labels}."
        )
    return task.own_data


def _paths(cfg: DictConfig, split: str, labels: str) -> tuple[str, str] | None:
    """The paths of the labels and the images of a split, or None if neither is given.

    ``labels`` is the last part of the labels' key.
    """
    data = cfg.get("data") or {}
    keys = f"{split}_{labels}", f"{split}_images"
    labels, images = (str(data.get(key) or "") for key in keys)
    if bool(labels) != bool(images):
        given, missing = keys if labels else reversed(keys)
        is_null = data.get(missing, "") is None
        hint = " Write ./null for a path that is called null." if is_null else ""
        raise UsageError(f"data.{given} is given without data.{missing}; both are needed.{hint}")
    return (os.path.abspath(labels), os.path.abspath(images)) if labels else None


def _apply_classes(cfg: DictConfig, task: Task, *, train: bool, val: bool) -> None:
    """Store the classes of the registered data sets and set the model's number of classes."""
    names = class_names("custom_train" if train else "custom_val", kind=task.kind)
    if train and val:
        check_same_classes("custom_train", "custom_val", kind=task.kind)
    elif not train and given_classes(cfg) not in ("", names) and task.kind == "thing":
        raise ValueError(
            f"The validation data have the classes {', '.join(names)}, but the config was saved by "
            f"a training run with {', '.join(given_classes(cfg))}. List the same categories with "
            "the same ids in both annotation files."
        )
    if not val:
        logger.warning("data.val_images is not given: the model is trained but not evaluated.")
    changed = set_num_classes(cfg, len(names))
    cfg.data.classes = literals(names)  # for predictors, which may run without the files
    logger.info("Custom data with %d classes (%s); set %s", len(names), ", ".join(names), changed)


def _register(own: OwnData, name: str, labels: str, images: str, cfg: DictConfig) -> None:
    """Register a data set under a name, replacing any earlier one."""
    unregister(name)
    own.register(name, labels, images, cfg)


def _read_masks_as_stored(cfg: DictConfig, name: str) -> None:
    """Let the training mapper read run-length masks as bitmaps if the data have any."""
    mapper = cfg.dataloader.train.get("mapper") or {}
    stored = MetadataCatalog.get(name).get("mask_format")
    if mapper.get("use_instance_mask") and stored == "bitmask":
        mapper.instance_mask_format = stored
