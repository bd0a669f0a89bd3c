"""Mask R-CNN and its cascade lose their mask branch only if the training data have no masks."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig

from vit_adapter import model_zoo
from vit_adapter.config.mask_branch import drop_mask_branch

FORMATS = {"boxes": None, "polygons": "polygon", "run_lengths": "bitmask"}


@pytest.fixture(scope="module", autouse=True)
def data_sets() -> Iterator[None]:
    for name, mask_format in FORMATS.items():
        MetadataCatalog.get(f"branch_{name}").mask_format = mask_format
    yield
    for name in (*FORMATS, "unknown"):
        MetadataCatalog.pop(f"branch_{name}", None)


def config(*names: str, name: str = "mask_rcnn_vit_tiny_scratch") -> DictConfig:
    cfg = model_zoo.get_config(f"quick_start/{name}")
    cfg.dataloader.train.dataset.names = [f"branch_{entry}" for entry in names]
    return cfg


def test_data_with_boxes_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cfg = config("boxes")
    drop_mask_branch(cfg)
    assert not instantiate(cfg.model.roi_heads).mask_on
    assert not cfg.dataloader.train.mapper.use_instance_mask
    (message,) = caplog.messages
    assert message.startswith("The annotations of branch_boxes have no masks. The model is built")
    drop_mask_branch(cfg)  # as from a saved config
    assert len(caplog.messages) == 1


def test_a_cascade(caplog: pytest.LogCaptureFixture) -> None:
    cfg = config("boxes", name="cascade_mask_rcnn_vit_adapter_tiny_scratch")
    drop_mask_branch(cfg)
    assert instantiate(cfg.model.roi_heads).mask_head is None
    assert "(model.roi_heads.mask_heads=null)" in caplog.text


def test_a_hybrid_task_cascade() -> None:
    cfg = model_zoo.get_config("coco/htc_vit_adapter_large_beit_3x")
    cfg.dataloader.train.dataset.names = "branch_boxes"
    drop_mask_branch(cfg)
    assert cfg.model.roi_heads.mask_heads is None
    assert cfg.dataloader.train.mapper.instance_jitter is None  # it cuts objects out by their masks


@pytest.mark.parametrize(
    "names", [["polygons"], ["run_lengths"], ["boxes", "polygons"], ["unknown"], []]
)
def test_masks_are_learnt_if_there_may_be_some(names: list[str]) -> None:
    cfg, before = config(*names), config(*names)
    drop_mask_branch(cfg)
    assert cfg == before


def test_other_models_stay_as_they_are() -> None:
    cfg = config("boxes", name="upernet_vit_tiny_scratch")
    before = config("boxes", name="upernet_vit_tiny_scratch")
    drop_mask_branch(cfg)
    assert cfg == before


def test_heads_with_only_a_mask_head() -> None:
    cfg = config("boxes")
    for key in ("mask_in_features", "mask_pooler"):  # as in Detectron2's Res5ROIHeads
        del cfg.model.roi_heads[key]
    drop_mask_branch(cfg)
    assert cfg.model.roi_heads.mask_head is None
    assert not {"mask_in_features", "mask_pooler"} & set(cfg.model.roi_heads)


@pytest.mark.parametrize(
    ("text", "drops"),
    [
        ('{"images": [{}], "categories": [{}], "annotations": [{"bbox": []}]}', True),
        ('{"images": [{}], "categories": [{}], "annotations": [{"segmentation": [[1]]}]}', False),
        ('{"images": [{}], "categories": [{}]}', False),
        ("broken", False),
        (None, False),
    ],
)
def test_evaluation_reads_the_training_data_if_they_are_there(
    text: str | None, drops: bool, tmp_path: Path
) -> None:
    cfg = config("unknown")
    cfg.data.train_json = str(tmp_path / "train.json")
    if text is not None:
        (tmp_path / "train.json").write_text(text)
    drop_mask_branch(cfg)
    assert (cfg.model.roi_heads.mask_head is None) == drops
