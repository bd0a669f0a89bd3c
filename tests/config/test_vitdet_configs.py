"""ViTDet's Cascade Mask R-CNN on BEiT-3: recipe, parameter groups, a training step."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter import LazyPredictor
from vit_adapter.data import coco_lsj_train, resize
from vit_adapter.layers import ChannelLayerNorm
from vit_adapter.test_time import DetectorViews

NAME = "coco/cascade_mask_rcnn_vitdet_giant_beit3_1280"


@pytest.fixture
def cfg(load_config: Callable[[str], DictConfig]) -> DictConfig:
    return load_config(NAME)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_model(cfg: DictConfig) -> None:
    with torch.device("meta"):
        model = instantiate(cfg.model)
    vit = model.backbone.bottom_up.vit
    assert (vit.depth, vit.embed_dim, vit.name) == (40, 1408, "beit3_giant_patch14_224")
    assert list(vit.window_sizes) == ([14] * 9 + [0]) * 4
    assert (count(model), count(vit)) == (1_074_048_062, 1_012_057_216)
    heads, rpn = model.roi_heads, model.proposal_generator
    assert (type(rpn), type(heads)) == (RPN, CascadeROIHeads)
    assert {type(matcher) for matcher in (rpn.anchor_matcher, *heads.proposal_matchers)} == {
        Matcher
    }
    transforms = [rpn.box2box_transform, *(each.box2box_transform for each in heads.box_predictor)]
    assert {type(transform) for transform in transforms} == {Box2BoxTransform}
    assert [matcher.thresholds[1] for matcher in heads.proposal_matchers] == [0.5, 0.6, 0.7]
    weights = [predictor.box2box_transform.weights for predictor in heads.box_predictor]
    assert [tuple(each) for each in weights] == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    assert {predictor.bbox_pred.out_features for predictor in heads.box_predictor} == {4}
    for conv in (heads.box_head[2].conv4, heads.mask_head.mask_fcn4, model.backbone.simfp_5[2]):
        assert isinstance(conv.norm, ChannelLayerNorm) and conv.bias is None
    assert model.train_size == (1280, 1280)


def test_recipe(cfg: DictConfig) -> None:
    assert cfg.train.vit_checkpoint == "timm:beit3_giant_patch14_224.pt"
    loaders, schedule = cfg.dataloader, instantiate(cfg.lr_multiplier)
    assert repr(instantiate(loaders.train.mapper.augmentations)) == repr(coco_lsj_train(1280))
    assert repr(instantiate(loaders.test.mapper.augmentations)) == repr(resize([1280], 1280))
    assert loaders.train.total_batch_size == 64
    assert (cfg.train.max_iter, schedule.milestones) == (138_281, [122_916, 133_159])
    assert (schedule.warmup.warmup_iters, schedule.warmup.warmup_factor) == (250, 0.001)
    assert cfg.test.nms.method == "linear"
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 0.1)


def test_layer_decay_reaches_the_blocks_of_timm(cfg: DictConfig) -> None:
    with torch.device("meta"):
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"] / 1e-4
        for group in instantiate(cfg.optimizer).param_groups
        for parameter in group["params"]
    }
    vit = "backbone.bottom_up.vit.model"
    expected = {
        f"{vit}.patch_embed.proj.weight": 0.9**41,
        f"{vit}.pos_embed": 0.9**41,
        f"{vit}.blocks.0.mlp.fc1.weight": 0.9**40,
        f"{vit}.blocks.39.mlp.fc1.weight": 0.9,
        "backbone.simfp_2.0.weight": 1.0,
        "roi_heads.box_head.0.fc1.weight": 1.0,
    }
    assert {name: rates[name] for name in expected} == pytest.approx(expected)


def reduce(cfg: DictConfig) -> None:
    """Four narrow blocks, narrow heads and small images."""
    vit = "backbone.bottom_up.vit"
    overrides = {
        f"{vit}.depth": 4,
        f"{vit}.embed_dim": 48,
        f"{vit}.window_sizes": [3, 3, 3, 0],
        f"{vit}.model_args": {"num_heads": 3},
        "backbone.out_channels": 16,
        "train_size": [128, 128],
        "proposal_generator.post_nms_topk": [50, 20],
        "roi_heads.mask_head.conv_dims": [16, 16],
    }
    for stage in range(3):
        overrides[f"roi_heads.box_heads.{stage}.conv_dims"] = [16]
        overrides[f"roi_heads.box_heads.{stage}.fc_dims"] = [32]
    for key, value in overrides.items():
        OmegaConf.update(cfg.model, key, value, merge=False)
    for predictor in cfg.model.roi_heads.box_predictors:
        predictor.test_score_thresh = 0.001
    cfg.dataloader.test.mapper.augmentations.short_edges = [64]
    cfg.train.vit_checkpoint = ""


def test_training_step_and_prediction(cfg: DictConfig) -> None:
    torch.manual_seed(0)
    reduce(cfg)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    masks = torch.zeros(1, 70, 100, dtype=torch.bool)
    masks[0, 8:40, 8:48] = True
    boxes = Boxes(torch.tensor([[8.0, 8, 48, 40]]))
    instances = Instances((70, 100), gt_boxes=boxes, gt_classes=torch.tensor([3]))
    instances.gt_masks = BitMasks(masks)
    image = torch.randint(0, 256, (3, 70, 100)).byte()
    with EventStorage():
        losses = model([{"image": image, "instances": instances}])
    assert {"loss_box_reg_stage2", "loss_mask", "loss_rpn_loc"} <= set(losses)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    optimizer.step()

    predictor = LazyPredictor(cfg)
    assert isinstance(predictor.model, DetectorViews)
    found = predictor(np.zeros((40, 60, 3), np.uint8))["instances"]
    assert 0 < len(found) <= 100
    assert found.pred_masks.shape[1:] == (40, 60)
