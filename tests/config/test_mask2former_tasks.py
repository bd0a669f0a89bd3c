"""Configs of Mask2Former for instances and panoptic segmentation."""

import re
from collections.abc import Callable

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter import model_zoo

NAMES = [
    name
    for name in model_zoo.list_configs()
    if re.search("/mask2former_(instance|panoptic)_", name)
]
PUBLIC = [name for name in NAMES if "_dinov2_" in name]
# Iterations of an epoch with 16 images
EPOCH = {"coco": 7_393, "ade20k": 1_264, "cityscapes": 186}
# Millions of parameters, as published for COCO panoptic (arXiv 2503.19108, table 4)
MILLIONS = {"small": 47, "base": 121, "large": 349}


@pytest.fixture
def cfg(name: str, load_config: Callable[[str], DictConfig]) -> DictConfig:
    return load_config(name)


@pytest.mark.parametrize("kind", ["instance"])
def test_every_size_is_there(kind: str) -> None:
    expected = {
        f"{data}/mask2former_{kind}_vit_adapter_{size}_dinov2_{schedule}"
        for size in MILLIONS
        for data, schedule in [
            ("coco", "1024_50ep"),
            ("coco", "640_12ep"),
            ("cityscapes", "1024_107ep"),
        ]
    }
    expected.add(f"quick_start/mask2former_{kind}_vit_adapter_tiny_scratch")
    assert expected <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_task_follow_the_name(name: str, cfg: DictConfig) -> None:
    panoptic = "_panoptic_" in name
    model = cfg.model
    outputs = (model.semantic_on, model.instance_on, model.panoptic_on)
    assert outputs == (False, True, panoptic)
    assert cfg.task.name == ("panoptic" if panoptic else "instances")
    assert bool(model.thing_classes) == panoptic
    assert model.postprocessing == "original"
    train, test = cfg.dataloader.train.mapper, cfg.dataloader.test.mapper
    assert train.image_format == test.image_format == "RGB"
    assert panoptic or train.instance_mask_format == "bitmask"


@pytest.mark.parametrize("name", PUBLIC)
def test_recipe(name: str, cfg: DictConfig) -> None:
    data, size, pixels, epochs = re.fullmatch(
        r"(\w+)/.*_(small|base|large)_dinov2_(\d+)_(\d+)ep", name
    ).groups()
    jitter = cfg.dataloader.train.mapper.augmentations
    assert jitter._target_.__name__ == "large_scale_jitter"
    assert jitter.image_size == int(pixels) and set(jitter) == {"_target_", "image_size"}
    assert cfg.model.head.transformer_decoder.num_queries == 200
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in instantiate(cfg.model).parameters())
    assert count / 1e6 == pytest.approx(MILLIONS[size], abs=1)
    optimizer = cfg.optimizer
    assert (optimizer.params.decay_rate, optimizer.lr, optimizer.weight_decay) == (0.8, 1e-4, 0.05)
    assert not optimizer.params.first_layer_names
    assert cfg.train.clip_grad_norm == 0.01
    rate = instantiate(cfg.lr_multiplier)
    if epochs == "50":  # of the authors of Mask2Former
        assert cfg.train.max_iter == 368_750
        assert rate.milestones == pytest.approx([327_778, 355_092], abs=1)
        assert rate(0.0) == 1.0
    else:
        assert cfg.train.max_iter == int(epochs) * EPOCH[data]
        assert rate.power == 0.9 and rate(0.0) == 1e-6
    assert f"dinov2_vit{size[0]}14_pretrain" in cfg.train.vit_checkpoint
