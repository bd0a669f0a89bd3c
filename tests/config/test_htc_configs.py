"""The recipes of the hybrid task cascade."""

from collections.abc import Callable

import pytest
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter.data import InstanceJitter, coco_htc_train, resize

DROP_PATH = {"augreg": 0.4, "beit": 0.3, "beitv2": 0.3, "uniperceiver": 0.4}
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize("pretraining", DROP_PATH)
def test_recipe(pretraining: str, load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(f"coco/htc_vit_adapter_large_{pretraining}_3x")
    model, attention = cfg.model, cfg.model.backbone.bottom_up
    adapter = attention.bottom_up
    assert attention.drop_path_rate == DROP_PATH[pretraining]
    assert (adapter.vit.drop_path_rate, adapter.drop_path_rate) == (0.4, 0.4)
    assert adapter.vit.use_checkpoint == adapter.use_checkpoint == (pretraining == "augreg")
    last = 56 if "beit" in pretraining else 0
    assert list(adapter.vit.window_sizes) == ([14] * 5 + [last]) * 4
    assert (model.pixel_mean, model.pixel_std) == IMAGENET
    optimizer = cfg.optimizer
    assert (optimizer.params.decay_rate, optimizer.lr, optimizer.weight_decay) == (0.9, 1e-4, 0.05)
    assert cfg.train.max_iter == 263_880 and not cfg.train.amp.enabled
    assert pretraining in cfg.train.vit_checkpoint.replace("uni-perceiver", "uniperceiver")


def test_data(load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config("coco/htc_vit_adapter_large_beit_3x")
    train, test = cfg.dataloader.train, cfg.dataloader.test
    assert train.dataset.names == "coco_2017_train"
    assert train.dataset.label_root == "coco/stuffthingmaps/train2017"
    mapper = instantiate(train.mapper)
    assert mapper.num_semantic_classes == 183
    assert vars(mapper.instance_jitter).keys() == vars(InstanceJitter()).keys()
    assert mapper.instance_jitter.probability == 0.5
    assert repr(list(mapper.augmentations.augs)) == repr(coco_htc_train())
    assert repr(instantiate(test.mapper.augmentations)) == repr(resize([1400], 1600))
