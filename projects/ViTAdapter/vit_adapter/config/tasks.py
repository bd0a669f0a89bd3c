"""The task that a config states, and the form of custom data for it.

A config has a node ``task``: ``name`` is "instances", "semantic" or "panoptic", and ``num_classes``
is the key of the number of classes, such as "model.roi_heads.num_classes". For "panoptic",
``thing_classes`` is the key of the list of classes that are things, such as "model.thing_classes".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detectron2.config import LazyCall as L
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf

from vit_adapter.config.errors import UsageError
from vit_adapter.config.literals import read_literals
from vit_adapter.data.instances.coco_format import register_coco_format
from vit_adapter.data.panoptic.own_files import register_panoptic_format
from vit_adapter.data.semantic.own_folders import read_class_names, register_label_folders
from vit_adapter.evaluation import (
    SemSegEvaluator,
    build_coco_evaluator,
    build_panoptic_evaluator,
)

__all__ = [
    "TASKS",
    "OwnData",
    "Task",
    "given_category_ids",
    "given_classes",
    "num_classes",
    "set_num_classes",
    "set_thing_classes",
    "stated_task",
    "thing_classes",
]


@dataclass(frozen=True)
class OwnData:
    """One way to give data: ``data.<split>_images`` with ``data.<split>_<labels>``.

    Attributes:
        labels: last parts of the keys of the labels; a split needs all of them.
        register: called with an unused name, the paths of the labels, the path of the images, and
            the config.
        evaluator: returns the node of an evaluator, without its ``dataset_name``.
    """

    labels: tuple[str, ...]
    register: Callable[[str, Sequence[str], str, DictConfig], None]
    evaluator: Callable[[], DictConfig]


@dataclass(frozen=True)
class Task:
    """What a model is trained for.

    Attributes:
        name: as in a config.
        kind: kind of the model's classes, "thing" or "stuff", as in Detectron2's metadata. The
            ``stuff_classes`` of panoptic data also include the things.
        own_data: how custom data are given.
    """

    name: str
    kind: str
    own_data: OwnData


def stated_task(cfg: DictConfig) -> Task:
    """Return the task that a config states.

    Raises:
        UsageError: it states none, or an unknown one.
    """
    name = OmegaConf.select(cfg, "task.name")
    if name is None:
        raise UsageError(
            "the config does not say what its model is trained for; add the overrides "
            f"+task.name=<{' or '.join(TASKS)}> and +task.num_classes=<key of the number of "
            "classes, such as model.roi_heads.num_classes>."
        )
    if name not in TASKS:
        raise UsageError(f"task.name={name!r} is unknown; expected one of {', '.join(TASKS)}.")
    return TASKS[name]


def num_classes(cfg: DictConfig) -> tuple[str, int]:
    """Return the key that a config states for its number of classes, and the number.

    Raises:
        UsageError: there is no number under that key.
    """
    key = OmegaConf.select(cfg, "task.num_classes")
    value = OmegaConf.select(cfg, key) if isinstance(key, str) else None
    if type(value) is not int:
        found = "several values" if OmegaConf.is_config(value) else repr(value)
        raise UsageError(
            f"task.num_classes={key!r} must be the key of the model's number of classes, such as "
            f"model.roi_heads.num_classes, but the config has {found} there."
        )
    return key, value


def set_num_classes(cfg: DictConfig, count: int) -> str:
    """Set the number of classes, not counting the background; values that refer to it follow.

    Args:
        cfg: changed in place.
        count: number of classes.

    Returns:
        The key that was set.

    Raises:
        UsageError: the config does not say which key holds the number.
    """
    key, _ = num_classes(cfg)
    OmegaConf.update(cfg, key, count)
    return key


def thing_classes(cfg: DictConfig) -> tuple[str, list[int]]:
    """Return the key that a config states for its list of things, and the list.

    Raises:
        UsageError: there is no list under that key.
    """
    key = OmegaConf.select(cfg, "task.thing_classes")
    value = OmegaConf.select(cfg, key) if isinstance(key, str) and key else None
    if not isinstance(value, ListConfig):
        raise UsageError(
            f"task.thing_classes={key!r} must be the key of the model's list of classes that are "
            f"things, such as model.thing_classes, but the config has {value!r} there."
        )
    return key, list(value)


def set_thing_classes(cfg: DictConfig, things: Sequence[int]) -> None:
    """Set the classes that are things.

    Args:
        cfg: changed in place.
        things: their indices.

    Raises:
        UsageError: the config does not say which key holds the list.
    """
    key, _ = thing_classes(cfg)
    OmegaConf.update(cfg, key, list(things))


def given_classes(cfg: DictConfig) -> list[str] | str:
    """Return ``data.classes``: names, or the file that has them; empty if the config has none."""
    classes = (cfg.get("data") or {}).get("classes") or ""
    return read_literals(classes) if isinstance(classes, ListConfig) else classes


def given_category_ids(cfg: DictConfig) -> dict[str, dict[int, int]]:
    """Return the class index of each category id in ``data.category_ids``.

    Returns:
        ``thing_dataset_id_to_contiguous_id`` and ``stuff_dataset_id_to_contiguous_id``, as in
        Detectron2's metadata; empty if the config has no ids.
    """
    ids = (cfg.get("data") or {}).get("category_ids") or []
    if not ids:
        return {}
    is_panoptic = stated_task(cfg).name == "panoptic"
    things = thing_classes(cfg)[1] if is_panoptic else range(len(ids))
    indexes: dict[str, dict[int, int]] = {"thing": {}, "stuff": {}}
    for index, identifier in enumerate(ids):
        indexes["thing" if index in things else "stuff"][identifier] = index
    return {f"{kind}_dataset_id_to_contiguous_id": found for kind, found in indexes.items()}


def _register_instances(name: str, labels: Sequence[str], images: str, cfg: DictConfig) -> None:
    register_coco_format(name, labels[0], images, image_format=_image_format(cfg))


def _coco_evaluator() -> DictConfig:
    return L(build_coco_evaluator)(output_dir="${train.output_dir}/inference")


def _register_semantic(name: str, labels: Sequence[str], images: str, cfg: DictConfig) -> None:
    classes = given_classes(cfg)
    if not classes:
        raise UsageError(
            "custom label maps need data.classes: a JSON file or a list with the names of the "
            "classes in the order of the labels, such as data.classes=classes.json or "
            "data.classes=[road,sky]."
        )
    names = read_class_names(classes)
    register_label_folders(
        name,
        images,
        labels[0],
        names,
        check_all=_reads_everything(cfg),
        image_format=_image_format(cfg),
    )


def _sem_seg_evaluator() -> DictConfig:
    return L(SemSegEvaluator)(output_dir="${train.output_dir}/inference")


def _register_panoptic(name: str, labels: Sequence[str], images: str, cfg: DictConfig) -> None:
    file, folder = labels
    register_panoptic_format(
        name,
        file,
        folder,
        images,
        check_all=_reads_everything(cfg),
        image_format=_image_format(cfg),
    )


def _panoptic_evaluator() -> DictConfig:
    return L(build_panoptic_evaluator)(output_dir="${train.output_dir}/inference")


def _reads_everything(cfg: DictConfig) -> bool:
    """Whether this process reads all files of custom data; if it fails, the others stop too."""
    return bool(cfg.data.get("check_all")) and comm.is_main_process()


def _image_format(cfg: DictConfig) -> str | int:
    return OmegaConf.select(cfg, "dataloader.test.mapper.image_format") or "RGB"


TASKS = {
    task.name: task
    for task in (
        # boxes and masks: COCO-format files
        Task("instances", "thing", OwnData(("json",), _register_instances, _coco_evaluator)),
        # folders of label maps
        Task("semantic", "stuff", OwnData(("labels",), _register_semantic, _sem_seg_evaluator)),
        # COCO's panoptic format: a file, and a folder of segment maps
        Task(
            "panoptic",
            "stuff",
            OwnData(("panoptic_json", "panoptic_pngs"), _register_panoptic, _panoptic_evaluator),
        ),
    )
}
