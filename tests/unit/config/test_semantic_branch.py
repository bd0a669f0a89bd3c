"""Without a semantic branch, the training data need no label maps."""

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from vit_adapter import model_zoo
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.config.semantic_branch import drop_label_maps

HTC = "coco/htc_vit_adapter_large_beit_3x"
UPERNET = "ade20k/upernet_vit_tiny_deit_512_160k"


def test_the_branch_is_switched_off_with_one_override() -> None:
    cfg = model_zoo.get_config(HTC)
    apply_overrides(cfg, ["model.roi_heads.semantic_head=null"])
    drop_label_maps(cfg)
    assert cfg.dataloader.train.dataset.label_root is None
    assert instantiate(cfg.dataloader.train.mapper).num_semantic_classes is None
    OmegaConf.resolve(cfg)  # so that it can be stored


@pytest.mark.parametrize("name", [HTC, "coco/mask_rcnn_vit_tiny_deit_1x", UPERNET])
def test_other_models_stay_as_they_are(name: str) -> None:
    cfg, before = model_zoo.get_config(name), model_zoo.get_config(name)
    drop_label_maps(cfg)
    assert cfg == before


def test_a_loader_without_a_mapper_stays_as_it_is() -> None:
    cfg = model_zoo.get_config(HTC)
    cfg.model.roi_heads.semantic_head = None
    del cfg.dataloader.train.mapper
    drop_label_maps(cfg)
    assert cfg.dataloader.train.dataset.label_root is None
