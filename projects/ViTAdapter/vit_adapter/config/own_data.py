"""Custom data sets, given as overrides without writing any Python.

``data.train_images`` and ``data.val_images`` replace the data sets of a config, together with COCO
files (``data.train_json data.val_json``), folders of label maps (``data.train_labels
data.val_labels data.classes``) or panoptic files with their folders of segment maps
(``data.train_panoptic_json data.train_panoptic_pngs`` and so on). The number of classes is set
accordingly.
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
from vit_adapter.config.tasks import (
    OwnData,
    Task,
    given_classes,
    set_num_classes,
    set_thing_classes,
    stated_task,
    thing_classes,
)
from vit_adapter.data.catalog import unregister
from vit_adapter.data.checks import category_ids, check_same_classes, class_names
from vit_adapter.data.panoptic.classes import check_same_things, thing_ids

__all__ = ["apply_custom_data", "register_test_data"]

logger = logging.getLogger(__name__)


def apply_custom_data(cfg: DictConfig, *, training: bool = True) -> DictConfig:
    """Replace the data sets of a config by those that ``cfg.data`` names.

    Registers them as ``custom_train`` and ``custom_val``, changes the data set names of
    ``dataloader.train``, ``dataloader.test`` and ``dataloader.evaluator``, sets the number of
    classes under the key ``task.num_classes``, and for panoptic models the things under
    ``task.thing_classes``, and stores the class names as ``data.classes`` and the category ids of
    the test data as ``data.category_ids``. Evaluation is switched off if only training data are
    given.

    Args:
        cfg: changed in place; unchanged if there are no paths under ``data``.
        training: whether the training data are used. If not, their files need not exist.

    Returns:
        ``cfg``.

    Raises:
        UsageError: labels are given without their image folder or vice versa, label maps without
            ``data.classes``, labels of another task, or the config does not state its task.
        FileNotFoundError, ValueError: the data are broken (see ``register_coco_format``,
            ``register_label_folders`` and ``register_panoptic_format``), or training and
            validation have different classes.
    """
    given = sorted(key for key in DATA_PATHS if OmegaConf.select(cfg, key))
    if not given:
        return cfg
    task = stated_task(cfg)
    own = task.own_data
    _refuse_other_keys(task, given)
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


def _refuse_other_keys(task: Task, given: Sequence[str]) -> None:
    """Raise a UsageError if keys of another task are given."""
    kinds = ("images", *task.own_data.labels)
    expected = [f"data.{split}_{kind}" for split in ("train", "val") for kind in kinds]
    others = [key for key in given if key not in expected]
    if others:
        needed = [key for key in expected if not key.endswith("_images")]
        raise UsageError(
            f"{' and '.join(others)} cannot be used: the config is for the task {task.name!r}, "
            f"which needs {', '.join(needed[:-1])} and {needed[-1]}."
        )


def _paths(
    cfg: DictConfig, split: str, labels: Sequence[str]
) -> tuple[tuple[str, ...], str] | None:
    """The paths of the labels and the images of a split, or None if none is given.

    ``labels`` are the last parts of the labels' keys.
    """
    data = cfg.get("data") or {}
    keys = [f"{split}_{kind}" for kind in (*labels, "images")]
    given = [key for key in keys if data.get(key)]
    missing = [key for key in keys if not data.get(key)]
    if given and missing:
        is_null = any(data.get(key, "") is None for key in missing)
        hint = " Write ./null for a path that is called null." if is_null else ""
        needed = "both" if len(keys) == 2 else "all"
        raise UsageError(
            f"{_names(given)} {'is' if len(given) == 1 else 'are'} given without "
            f"{_names(missing)}; {needed} are needed.{hint}"
        )
    if missing:
        return None
    *files, images = (os.path.abspath(str(data[key])) for key in keys)
    return tuple(files), images


def _names(keys: Sequence[str]) -> str:
    return " and ".join(f"data.{key}" for key in keys)


def _apply_classes(cfg: DictConfig, task: Task, *, train: bool, val: bool) -> None:
    """Store the classes of the registered data sets and set the model's number of classes."""
    source = "custom_train" if train else "custom_val"
    names = class_names(source, kind=task.kind)
    if task.name == "panoptic":
        _apply_things(cfg, source, both=train and val)
    if train and val:
        check_same_classes("custom_train", "custom_val", kind=task.kind)
    elif not train and given_classes(cfg) not in ("", names) and task.name != "semantic":
        raise ValueError(
            f"The validation data have the classes {', '.join(names)}, but the config was saved by "
            f"a training run with {', '.join(given_classes(cfg))}. List the same categories with "
            "the same ids in both annotation files."
        )
    if not val:
        logger.warning("data.val_images is not given: the model is trained but not evaluated.")
    changed = set_num_classes(cfg, len(names))
    # For predictors, which may run without the files.
    cfg.data.classes = literals(names)
    if ids := category_ids("custom_val" if val else "custom_train"):
        cfg.data.category_ids = ids
    logger.info("Custom data with %d classes (%s); set %s", len(names), ", ".join(names), changed)


def _apply_things(cfg: DictConfig, source: str, *, both: bool) -> None:
    """Set the classes that are things to those of a registered data set.

    With ``both``, training and validation data are registered and must have the same things.
    Otherwise validation data must have those of the training run that saved the config, if any.
    """
    names, things = class_names(source, kind="stuff"), thing_ids(source)
    saved = given_classes(cfg)
    if both:
        check_same_things("custom_train", "custom_val")
    elif source == "custom_val" and set(saved) == set(names):
        were_things = {saved[index] for index in thing_classes(cfg)[1]}
        differing = were_things ^ {names[index] for index in things}
        if differing:
            raise ValueError(
                f"'isthing' of the classes {', '.join(sorted(differing))} in the validation data "
                "is not that of the training run that saved the config. Give each category the "
                "same 'isthing' in both annotation files."
            )
    set_thing_classes(cfg, things)


def _register(own: OwnData, name: str, labels: Sequence[str], images: str, cfg: DictConfig) -> None:
    """Register a data set under a name, replacing any earlier one."""
    unregister(name)
    own.register(name, labels, images, cfg)


def _read_masks_as_stored(cfg: DictConfig, name: str) -> None:
    """Let the training mapper read run-length masks as bitmaps if the data have any."""
    mapper = cfg.dataloader.train.get("mapper") or {}
    stored = MetadataCatalog.get(name).get("mask_format")
    if mapper.get("use_instance_mask") and stored == "bitmask":
        mapper.instance_mask_format = stored
