"""Configs from before there was a node for the task."""

import pytest
from omegaconf import OmegaConf

from vit_adapter import model_zoo
from vit_adapter.config.unstated_task import fill_in_task


@pytest.mark.parametrize(
    "name",
    [
        "coco/mask_rcnn_vit_adapter_tiny_deit_3x",
        "ade20k/upernet_vit_adapter_tiny_deit_512_160k",
        "ade20k/semantic_fpn_vit_adapter_tiny_deit_512_80k",
        "quick_start/mask2former_vit_adapter_tiny_scratch",
    ],
)
def test_configs_of_the_project_without_their_task(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = model_zoo.get_config(name)
    stated = cfg.pop("task")
    fill_in_task(cfg)
    assert cfg.task == stated
    assert f"num_classes='{stated.num_classes}'), which is assumed now" in caplog.text


def test_a_stated_task_stays() -> None:
    task = {"name": "panoptic", "num_classes": "model.n"}
    cfg = OmegaConf.create({"task": task, "data": {"train_json": ""}, "model": {"num_classes": 3}})
    fill_in_task(cfg)
    assert cfg.task == task


@pytest.mark.parametrize(
    "cfg",
    [
        {"model": {"num_classes": 3}},  # no data node
        {"data": {"crop_size": [8, 8]}, "model": {"num_classes": 3}},
        {"data": {"train_json": ""}, "model": {"stages": [{"num_classes": 3}, {"num_classes": 3}]}},
        {"data": {"train_json": ""}, "model": {"depth": 3}},
        {"data": {"train_json": ""}, "model": "elsewhere"},
    ],
)
def test_what_is_unclear_is_left_to_the_user(cfg: dict[str, object]) -> None:
    cfg = OmegaConf.create(cfg)
    fill_in_task(cfg)
    assert "task" not in cfg


def test_numbers_that_refer_to_another_do_not_count() -> None:
    model = {"heads": [{"num_classes": 3}, {"num_classes": "${..0.num_classes}"}], "n": "???"}
    cfg = OmegaConf.create({"data": {"train_labels": ""}, "model": model})
    fill_in_task(cfg)
    assert cfg.task == {"name": "semantic", "num_classes": "model.heads.0.num_classes"}
