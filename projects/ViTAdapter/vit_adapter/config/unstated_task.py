"""Configs that do not state their task, as those written before the node ``task`` existed."""

import logging
from collections.abc import Iterator

from omegaconf import DictConfig, ListConfig, OmegaConf

from vit_adapter.config.tasks import TASKS

__all__ = ["fill_in_task"]

logger = logging.getLogger(__name__)


def fill_in_task(cfg: DictConfig) -> None:
    """Add the node ``task`` to a config without one, if there is only one possibility.

    The keys of ``data`` show the form of custom data and thus the task. The number of classes is
    the only ``num_classes`` of the model that does not refer to another one. If either is unclear,
    the config stays as it is, and :func:`vit_adapter.config.tasks.stated_task` says what to add.

    Args:
        cfg: changed in place.
    """
    data, model = cfg.get("data") or {}, cfg.get("model")
    if "task" in cfg or not isinstance(model, DictConfig):
        return
    names = [
        task.name
        for task in TASKS.values()
        if all(f"train_{label}" in data for label in task.own_data.labels)
    ]
    keys = list(_class_count_keys(model, "model"))
    if len(names) == len(keys) == 1:
        cfg.task = {"name": names[0], "num_classes": keys[0]}
        logger.warning(
            "The config does not state its task. Add task = dict(name=%r, num_classes=%r), which "
            "is assumed now.",
            names[0],
            keys[0],
        )


def _class_count_keys(node: DictConfig | ListConfig, key: str) -> Iterator[str]:
    """The keys of every ``num_classes`` inside a node that is a number of its own."""
    for name in node if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            continue
        child = node[name]
        if name == "num_classes" and isinstance(child, int):
            yield f"{key}.{name}"
        elif OmegaConf.is_config(child):
            yield from _class_count_keys(child, f"{key}.{name}")
