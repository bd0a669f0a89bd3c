"""The recipes of the hybrid task cascade."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter import LazyPredictor
from vit_adapter.data import InstanceJitter, coco_htc_train, resize
from vit_adapter.detection import GIoUBoxPredictor
from vit_adapter.test_time import DetectorViews, Suppression

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


FINE_TUNING = "coco/htc_vit_adapter_large_beitv2_o365"


def test_fine_tuning_after_objects365(load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(FINE_TUNING)
    train, loaders, optimizer = cfg.train, cfg.dataloader, cfg.optimizer
    assert (train.max_iter, train.eval_period, train.checkpointer.period) == (20_000, 500, 500)
    assert train.clip_grad == {"enabled": True, "params": {"max_norm": 0.1, "norm_type": 2.0}}
    assert train.base_batch_size == 64
    assert (optimizer.params.decay_rate, optimizer.lr, optimizer.weight_decay) == (0.8, 1e-4, 0.05)
    schedule = instantiate(cfg.lr_multiplier)
    values = {i: schedule(i / 20_000) for i in (0, 250, 500, 10_000, 19_999)}
    assert values == pytest.approx({0: 0.001, 250: 0.5005, 500: 1, 10_000: 1, 19_999: 1})
    mapper = instantiate(loaders.train.mapper)
    assert mapper.instance_jitter is None
    assert repr(list(mapper.augmentations.augs)) == repr(coco_htc_train((600, 1600), 2000))
    assert repr(instantiate(loaders.test.mapper.augmentations)) == repr(resize([1000], 2000))
    attention = cfg.model.backbone.bottom_up
    adapter = attention.bottom_up
    assert attention.use_checkpoint and adapter.use_checkpoint and adapter.vit.use_checkpoint
    rates = attention.drop_path_rate, adapter.drop_path_rate, adapter.vit.drop_path_rate
    assert rates == (0.3, 0.3, 0.3)


def test_heads_after_objects365(load_config: Callable[[str], DictConfig]) -> None:
    with torch.device("meta"):
        model = instantiate(load_config(FINE_TUNING).model)
    for head, predictor in zip(
        model.roi_heads.box_head, model.roi_heads.box_predictor, strict=True
    ):
        assert isinstance(head.conv4.norm, nn.SyncBatchNorm)
        assert isinstance(predictor, GIoUBoxPredictor)
        assert predictor.loss_weight == {"loss_box_reg": 10.0}
        assert predictor.bbox_pred.out_features == 4
        assert predictor.test_score_thresh == 0.001
    assert isinstance(model.backbone.fpn_lateral2.norm, nn.GroupNorm)
    assert isinstance(model.backbone.fpn_output5.norm, nn.GroupNorm)


def test_single_scale_test(load_config: Callable[[str], DictConfig]) -> None:
    """Soft-NMS, and more boxes for AugReg."""
    names = [f"coco/htc_vit_adapter_large_{pretraining}_3x" for pretraining in DROP_PATH]
    for name in [*names, FINE_TUNING]:
        cfg = load_config(name)
        assert (cfg.test.nms.method, cfg.test.nms.min_score) == ("linear", 0.001)
        predictor = cfg.model.roi_heads.box_predictors[2]
        assert (predictor.test_score_thresh, predictor.test_nms_thresh) == (0.001, 0.5)
        assert predictor.test_topk_per_image == (300 if "augreg" in name else 100)
        resizing = instantiate(cfg.dataloader.test.mapper.augmentations)
        limits = ([1000], 2000) if name == FINE_TUNING else ([1400], 1600)
        assert repr(resizing) == repr(resize(*limits))


def reduce(cfg: DictConfig) -> None:
    """A small version of the fine-tuned detector: four narrow blocks and narrow heads."""
    adapter = "backbone.bottom_up.bottom_up"
    overrides = {
        f"{adapter}.vit.embed_dim": 64,
        f"{adapter}.vit.depth": 4,
        f"{adapter}.vit.num_heads": 4,
        f"{adapter}.vit.window_sizes": [3, 3, 5, 5],
        f"{adapter}.interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]],
        f"{adapter}.conv_inplane": 8,
        f"{adapter}.deform_num_heads": 4,
        f"{adapter}.norm": "BN",
        "backbone.out_channels": 32,
        "proposal_generator.post_nms_topk": [50, 20],
        "roi_heads.semantic_head.num_classes": 5,
    }
    for stage in range(3):
        heads = f"roi_heads.box_heads.{stage}"
        overrides |= {
            f"{heads}.conv_dims": [32],
            f"{heads}.conv_norm": "BN",
            f"{heads}.fc_dims": [32],
            f"roi_heads.mask_heads.{stage}.conv_dims": [32, 32],
        }
    for key, value in overrides.items():
        OmegaConf.update(cfg.model, key, value, merge=False)
    cfg.model.roi_heads.box_predictors[2].test_topk_per_image = 7


def test_training_step_and_prediction_with_soft_nms(
    load_config: Callable[[str], DictConfig],
) -> None:
    torch.manual_seed(0)
    cfg = load_config(FINE_TUNING)
    reduce(cfg)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[0, 8:40, 8:48] = True
    boxes = Boxes(torch.tensor([[8.0, 8, 48, 40]]))
    instances = Instances((64, 96), gt_boxes=boxes, gt_classes=torch.tensor([3]))
    instances.gt_masks = BitMasks(masks)
    image = torch.randint(0, 256, (3, 64, 96)).byte()
    labels = torch.randint(0, 5, (64, 96))
    with EventStorage():
        losses = model([{"image": image, "instances": instances, "sem_seg": labels}])
    assert {"loss_box_reg_stage2", "loss_mask_stage2", "loss_sem_seg"} <= set(losses)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()

    cfg.dataloader.test.mapper.augmentations.short_edges = [64]
    cfg.train.vit_checkpoint = ""
    predictor = LazyPredictor(cfg)
    assert isinstance(predictor.model, DetectorViews)
    assert predictor.model.nms == Suppression(method="linear", min_score=0.001)
    found = predictor(np.zeros((40, 60, 3), np.uint8))["instances"]
    assert len(found) == 7  # the limit of the model, after soft-NMS
