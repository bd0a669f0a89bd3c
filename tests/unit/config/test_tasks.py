"""The task that a config states."""

import pytest
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from vit_adapter import model_zoo
from vit_adapter.config.data_checks import check_classes
from vit_adapter.config.errors import UsageError
from vit_adapter.config.tasks import num_classes, set_num_classes, stated_task

KEY = "model.head.num_classes"


def make_config(**task: object) -> DictConfig:
    return OmegaConf.create({"task": task, "model": {"head": {"num_classes": 80}, "other": 3}})


@pytest.mark.parametrize(
    ("name", "kind"), [("instances", "thing"), ("semantic", "stuff"), ("panoptic", "stuff")]
)
def test_the_config_states_its_task(name: str, kind: str) -> None:
    task = stated_task(make_config(name=name))
    assert (task.name, task.kind) == (name, kind)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({}, r"does not say what its model is trained for.*\+task\.num_classes"),
        ({"name": "detection"}, "'detection' is unknown; expected one of instances, semantic"),
    ],
)
def test_task_that_is_not_stated(task: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stated_task(make_config(**task))


def test_the_number_of_classes_goes_where_the_config_says() -> None:
    cfg = make_config(num_classes=KEY)
    assert num_classes(cfg) == (KEY, 80)
    assert set_num_classes(cfg, 5) == KEY
    assert cfg.model == {"head": {"num_classes": 5}, "other": 3}


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (None, "None"),
        ("model.heads.num_classes", "None"),
        ("model.head", "several values"),
        ("", "several values"),
        (80, "None"),
    ],
)
def test_number_of_classes_under_an_unknown_key(key: object, found: str) -> None:
    message = f"task.num_classes={key!r} must be the key .* but the config has {found} there"
    with pytest.raises(UsageError, match=message):
        set_num_classes(make_config(num_classes=key), 5)


def test_five_panoptic_classes_fit_a_panoptic_model() -> None:
    cfg = model_zoo.get_config("quick_start/mask2former_vit_adapter_tiny_scratch")
    cfg.task.name = "panoptic"
    cfg.dataloader.train.dataset.names = "shapes_train_panoptic"
    cfg.dataloader.test.dataset.names = "shapes_val_panoptic"
    check_classes(cfg, training=True)
    set_num_classes(cfg, 3)  # only its things
    assert instantiate(cfg.model.head.transformer_decoder).num_classes == 3
    with pytest.raises(ValueError, match="shapes_train_panoptic' has 5 stuff classes"):
        check_classes(cfg, training=True)
