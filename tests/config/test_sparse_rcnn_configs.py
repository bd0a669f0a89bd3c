"""The numbers of the config of Sparse R-CNN."""

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from vit_adapter.checkpoint.original import revert
from vit_adapter.data import coco_3x_train


@pytest.fixture
def cfg(load_config: Callable[[str], DictConfig]) -> DictConfig:
    return load_config("coco/sparse_rcnn_vit_adapter_small_deit_3x")


@pytest.fixture
def model(cfg: DictConfig) -> nn.Module:
    with torch.device("meta"):
        return instantiate(cfg.model)


def test_parameter_count(model: nn.Module) -> None:
    millions = Decimal(sum(p.numel() for p in model.parameters())) / 10**6
    assert str(millions.quantize(Decimal("0.01"), ROUND_HALF_UP)) == "109.75"
    assert all(p.requires_grad for p in model.parameters())


def test_pyramid_and_pooling(model: nn.Module) -> None:
    strides = {name: shape.stride for name, shape in model.backbone.output_shape().items()}
    assert strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    pooler = model.roi_heads.box_pooler
    assert pooler.output_size == (7, 7)
    assert (pooler.canonical_box_size, pooler.canonical_level) == (224, 4)
    for level, stride in zip(pooler.level_poolers, strides.values(), strict=True):
        assert (level.spatial_scale, level.sampling_ratio, level.aligned) == (1 / stride, 2, True)
    assert model.roi_heads.in_features == list(strides)


def test_heads(model: nn.Module) -> None:
    heads = model.roi_heads
    assert len(heads.stages) == 6 and heads.num_classes == 80
    assert {stage.attention.num_heads for stage in heads.stages} == {8}
    assert tuple(heads.box2box_transform.weights) == (1 / 0.5, 1 / 0.5, 1, 1)
    assert (model.proposal_generator.boxes.num_embeddings, heads.test_topk_per_image) == (300, 300)
    criterion, matcher = heads.criterion, heads.criterion.matcher
    assert (criterion.class_weight, criterion.l1_weight, criterion.giou_weight) == (2, 5, 2)
    assert (matcher.cost_class, matcher.cost_l1, matcher.cost_giou) == (2, 5, 2)
    for part in (criterion, matcher):
        assert (part.focal_loss_alpha, part.focal_loss_gamma) == (0.25, 2)


def test_recipe(cfg: DictConfig) -> None:
    assert cfg.model.backbone.bottom_up.vit.drop_path_rate == 0.2
    train = cfg.dataloader.train
    assert (train.total_batch_size, train.mapper.use_instance_mask) == (16, False)
    assert repr(instantiate(train.mapper.augmentations)) == repr(coco_3x_train())
    assert (cfg.train.max_iter, cfg.train.amp.enabled) == (36 * 7330, False)
    clip_grad = {"enabled": True, "params": {"max_norm": 1.0, "norm_type": 2.0}}
    assert (cfg.train.clip_grad, cfg.train.ddp.find_unused_parameters) == (clip_grad, False)
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 0.05)
    assert (cfg.lr_multiplier.epochs, cfg.lr_multiplier.milestones) == (36, [27, 33])


# The original's multipliers of rate and decay, by pieces of its own names
MULTIPLIERS = {
    "level_embed": (1, 0),
    "pos_embed": (1, 0),
    "norm": (1, 0),
    "bias": (1, 0),
    "rpn_head": (0.25, 0.002),
}


def test_rates_and_decays_are_those_of_the_original(cfg: DictConfig, model: nn.Module) -> None:
    theirs = revert(dict(model.named_parameters())).names
    cfg.optimizer.params.model = model
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in instantiate(cfg.optimizer).param_groups
        for parameter in group["params"]
    }
    keys = sorted(sorted(MULTIPLIERS), key=len, reverse=True)
    for name, parameter in model.named_parameters():
        key = next((key for key in keys if key in theirs[name]), None)
        rate, decay = MULTIPLIERS.get(key, (1, 1))
        assert found[id(parameter)] == pytest.approx((1e-4 * rate, 0.05 * decay)), name


def test_norms_of_the_branches_decay(cfg: DictConfig, model: nn.Module) -> None:
    """As in the original: nothing in their names says that they are norms."""
    cfg.optimizer.params.model = model
    (decayed,) = (
        {id(parameter) for parameter in group["params"]}
        for group in instantiate(cfg.optimizer).param_groups
        if (group["lr"], group["weight_decay"]) == (1e-4, 0.05)
    )
    stage = model.roi_heads.stages[0]
    assert id(stage.bbox_subnet[1].weight) in decayed
    assert id(stage.bbox_subnet[1].bias) not in decayed
    assert id(stage.dynamic_conv.fc_norm.weight) not in decayed
