"""The sizes of Mask2Former: a few numbers define them, and the models can be trained."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from vit_adapter import model_zoo

SIZES = ("tiny", "base", "large")


@pytest.fixture(params=SIZES)
def model(request: pytest.FixtureRequest) -> DictConfig:
    return model_zoo.get_config("common/models/mask2former")[request.param]


def test_widths_and_classes_are_defined_once(model: DictConfig) -> None:
    model = copy.deepcopy(model)
    model.backbone = {"vit": {"embed_dim": 96}}
    model.head.pixel_decoder.embed_dim = 128
    model.head.transformer_decoder.num_classes = 7
    model.criterion.mask_weight = 3.0
    OmegaConf.resolve(model)
    assert {shape.channels for shape in model.head.pixel_decoder.input_shape.values()} == {96}
    assert model.head.pixel_decoder.mask_dim == 128
    assert model.head.transformer_decoder.embed_dim == 128
    assert model.head.transformer_decoder.mask_dim == 128
    assert model.criterion.num_classes == 7
    assert model.criterion.matcher.cost_mask == 3.0
    assert model.criterion.matcher.num_points == model.criterion.num_points


def test_heads_are_32_wide(model: DictConfig) -> None:
    decoder = model.head.pixel_decoder
    assert decoder.embed_dim == 32 * decoder.num_heads


def test_the_tiny_model_trains_with_a_vit_adapter() -> None:
    cfg = model_zoo.get_config("common/models/mask2former")["tiny"]
    cfg.backbone = model_zoo.get_config("common/models/vit_adapter_seg").tiny_scratch
    cfg.head.transformer_decoder.num_classes = 3
    model = instantiate(cfg)
    inputs = [{"image": torch.rand(3, 64, 96), "sem_seg": torch.randint(3, (64, 96))}]
    losses = model(inputs)
    assert len(losses) == 3 * 4
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
