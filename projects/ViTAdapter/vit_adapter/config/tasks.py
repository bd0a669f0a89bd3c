"""What data of the user's own look like for each task: keys of ``cfg.data``, files, evaluator."""

from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import LazyCall as L
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig

from vit_adapter.config.errors import UsageError
from vit_adapter.config.literals import read_literals
from vit_adapter.data.instances.coco_format import register_coco_format
from vit_adapter.data.semantic.own_folders import read_class_names, register_label_folders
from vit_adapter.evaluation import SemSegEvaluator, build_coco_evaluator

__all__ = ["INSTANCES", "SEMANTIC", "OwnDataTask", "find_task", "given_classes"]


@dataclass(frozen=True)
class OwnDataTask:
    """One way to give data: ``data.<split>_images`` with ``data.<split>_<labels>``.

    Attributes:
        labels: end of the key of the labels.
        kind: of the classes, "thing" or "stuff", as in Detectron2's metadata.
        register: called with a name that is free, the path of the labels, that of the images, and
            the config.
        evaluator: makes the node of an evaluator, but for its ``dataset_name``.
    """

    labels: str
    kind: str
    register: Callable[[str, str, str, DictConfig], None]
    evaluator: Callable[[], DictConfig]


def find_task(cfg: DictConfig) -> OwnDataTask:
    """Return the task whose keys the ``data`` node of a config has."""
    return SEMANTIC if "train_labels" in (cfg.get("data") or {}) else INSTANCES


def given_classes(cfg: DictConfig) -> list[str] | str:
    """Return ``data.classes``: names, or the file that holds them; empty if the config has none."""
    classes = (cfg.get("data") or {}).get("classes") or ""
    return read_literals(classes) if isinstance(classes, ListConfig) else classes


def _register_instances(name: str, json_file: str, images: str, cfg: DictConfig) -> None:
    register_coco_format(name, json_file, images)


def _coco_evaluator() -> DictConfig:
    return L(build_coco_evaluator)(output_dir="${train.output_dir}/inference")


def _register_semantic(name: str, labels: str, images: str, cfg: DictConfig) -> None:
    classes = given_classes(cfg)
    if not classes:
        raise UsageError(
            "own label pictures need data.classes: a JSON file or a list with the names of the "
            "classes in the order of the labels, such as data.classes=classes.json or "
            "data.classes=[road,sky]."
        )
    # One process is enough to read everything; if it fails it stops the others.
    check_all = bool(cfg.data.get("check_all")) and comm.is_main_process()
    register_label_folders(name, images, labels, read_class_names(classes), check_all=check_all)


def _sem_seg_evaluator() -> DictConfig:
    return L(SemSegEvaluator)()


INSTANCES = OwnDataTask(
    labels="json",
    kind="thing",
    register=_register_instances,
    evaluator=_coco_evaluator,
)
"""Boxes and masks: COCO-format files."""

SEMANTIC = OwnDataTask(
    labels="labels",
    kind="stuff",
    register=_register_semantic,
    evaluator=_sem_seg_evaluator,
)
"""Semantic labels: folders of label pictures."""
