"""The data sets that a config names, and whether they fit its model and mapper."""

import logging

from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.errors import UsageError
from vit_adapter.config.tasks import num_classes, stated_task, thing_classes
from vit_adapter.data.checks import check_has_objects, check_mask_format, check_num_classes
from vit_adapter.data.instances.coco_sets import check_downloaded
from vit_adapter.data.panoptic.classes import thing_ids
from vit_adapter.data.semantic.sets import check_prepared

__all__ = ["check_classes", "dataset_names"]

logger = logging.getLogger(__name__)


def check_classes(cfg: DictConfig, *, training: bool) -> None:
    """Check the data sets against their files, the model and the mapper before training starts.

    Args:
        cfg: the config. If it states no task, a warning replaces the check of the number of
            classes.
        training: whether the training data are used. The test data are used if there is an
            evaluator.

    Raises:
        UsageError: the config states an unknown task, or no number of classes, or the things of the
            model are not those of the data.
        ValueError: the numbers of classes differ, there is nothing to learn from, or the mapper
            cannot read the masks.
        FileNotFoundError: files or folders of a public data set do not exist.
    """
    used = {"train": training, "test": cfg.dataloader.get("evaluator") is not None}
    splits = [split for split, is_used in used.items() if is_used]
    names = {split: dataset_names(cfg, split) for split in splits}
    distinct = list(dict.fromkeys(name for group in names.values() for name in group))
    for name in distinct:
        check_prepared(name)
        check_downloaded(name)
    if "task" in cfg:
        task, (key, count) = stated_task(cfg), num_classes(cfg)
        for name in distinct:
            check_num_classes(name, count, override_key=key, kind=task.kind)
            if "thing_classes" in cfg.task:
                _check_things(cfg, name)
    elif distinct:
        logger.warning(
            "The config has no node 'task', so the model's number of classes is not checked "
            "against that of %s.",
            ", ".join(distinct),
        )
    if training:
        for name in names["train"]:
            check_has_objects(name)
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper") or {}
    if training and mapper.get("use_instance_mask") and "instance_mask_format" in mapper:
        for name in names["train"]:
            check_mask_format(name, mapper.instance_mask_format)


def _check_things(cfg: DictConfig, name: str) -> None:
    """Raise a UsageError unless the model and a data set have the same things."""
    key, things = thing_classes(cfg)
    expected = thing_ids(name)
    if sorted(things) != expected:
        override = str(expected).replace(" ", "")
        raise UsageError(
            f"The data set {name!r} has the things {expected} (class indices), but the model has "
            f"{key}={things}. Add the override {key}={override}, or choose the data set that the "
            "model is made for."
        )


def dataset_names(cfg: DictConfig, split: str) -> list[str]:
    """Names of the data sets of ``dataloader.train`` or ``dataloader.test`` (``split``)."""
    names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(names)
