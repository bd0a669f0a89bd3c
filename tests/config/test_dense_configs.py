"""The numbers of the configs of ATSS and GFL."""

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter.data import coco_3x_train

# Parameters in millions: those of the paper are rounded.
PARAMETERS = {
    ("atss", "vit_adapter"): ("35.67", 36),
    ("gfl", "vit_adapter"): ("35.81", 36),
    ("atss", "vit"): ("31.61", 32),
    ("gfl", "vit"): ("31.76", 32),
}


@pytest.fixture(params=PARAMETERS, ids="_".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def cfg(case: tuple[str, str], load_config: Callable[[str], DictConfig]) -> DictConfig:
    return load_config("coco/{}_{}_small_deit_3x".format(*case))


def test_parameter_counts(case: tuple[str, str], cfg: DictConfig) -> None:
    with torch.device("meta"):
        model = instantiate(cfg.model)
    millions = Decimal(sum(p.numel() for p in model.parameters())) / 10**6
    exact, published = PARAMETERS[case]
    assert str(millions.quantize(Decimal("0.01"), ROUND_HALF_UP)) == exact
    assert millions.quantize(Decimal(1), ROUND_HALF_UP) == published


def test_the_output_of_stride_4_is_not_computed(cfg: DictConfig) -> None:
    with torch.device("meta"):
        backbone = instantiate(cfg.model.backbone)
    assert list(backbone.bottom_up.output_shape()) == ["res3", "res4", "res5"]
    strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
    assert strides == {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
    assert backbone.size_divisibility == 32
    frozen = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen and frozen <= {"spm", "up", "norm1", "up1", "up2", "fpn1"}


def test_anchors_are_squares_of_8_strides_around_multiples_of_the_stride(cfg: DictConfig) -> None:
    generator = instantiate(cfg.model.anchor_generator)
    for stride in (8, 16, 32, 64, 128):
        level = generator([torch.zeros(1, 1, 2, 2)] * 5)[int.bit_length(stride) - 4].tensor
        half = 4 * stride
        assert level[0].tolist() == [-half, -half, half, half]
        assert level[3].tolist() == [stride - half, stride - half, stride + half, stride + half]


def test_recipe(case: tuple[str, str], cfg: DictConfig) -> None:
    assert (
        cfg.model.backbone.bottom_up.vit.drop_path_rate == {"vit_adapter": 0.2, "vit": 0.1}[case[1]]
    )
    train = cfg.dataloader.train
    assert (train.total_batch_size, train.mapper.use_instance_mask) == (16, False)
    assert repr(instantiate(train.mapper.augmentations)) == repr(coco_3x_train())
    assert (cfg.train.max_iter, cfg.train.amp.enabled) == (36 * 7330, False)
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 0.05)
    assert not cfg.train.ddp.find_unused_parameters


def test_decay_of_the_head(cfg: DictConfig) -> None:
    """As in the original: factors and weights of norms decay, all biases do not."""
    with torch.device("meta"):
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    decays = {
        id(parameter): group["weight_decay"]
        for group in instantiate(cfg.optimizer).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.head.named_parameters():
        assert decays[id(parameter)] == (0 if name.endswith("bias") else 0.05), name
