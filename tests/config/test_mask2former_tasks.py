"""Configs of Mask2Former for instances and panoptic segmentation."""

import re
from collections.abc import Callable

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter import model_zoo
from vit_adapter.data import coco_panoptic_train, resize

NAMES = [
    name
    for name in model_zoo.list_configs()
    if re.search("/mask2former_(instance|panoptic)_", name)
]
PUBLIC = [name for name in NAMES if "_dinov2_" in name]
ORIGINAL = "coco/mask2former_panoptic_vit_adapter_large_beitv2_3x"
# Iterations of an epoch with 16 images
EPOCH = {"coco": 7_393, "ade20k": 1_264, "cityscapes": 186}
CLIPPING = {"enabled": True, "params": {"max_norm": 0.01, "norm_type": 2.0}}
# Millions of parameters, as published for COCO panoptic (arXiv 2503.19108, table 4)
MILLIONS = {"small": 47, "base": 121, "large": 349}


@pytest.fixture
def cfg(name: str, load_config: Callable[[str], DictConfig]) -> DictConfig:
    return load_config(name)


@pytest.mark.parametrize("kind", ["instance", "panoptic"])
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
    if kind == "panoptic":
        schedule = "dinov2_640_31ep"
        expected |= {f"ade20k/mask2former_{kind}_vit_adapter_{s}_{schedule}" for s in MILLIONS}
        expected |= {ORIGINAL, "quick_start/mask2former_panoptic_vit_adapter_shapes"}
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
    assert list(model.thing_classes) == list(range(80)) or not panoptic or "coco/" not in name
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
    assert cfg.train.clip_grad == CLIPPING
    rate = instantiate(cfg.lr_multiplier)
    if epochs == "50":  # of the authors of Mask2Former
        assert cfg.train.max_iter == 368_750
        assert rate.milestones == pytest.approx([327_778, 355_092], abs=1)
        assert rate(0.0) == 1.0
    else:
        assert cfg.train.max_iter == int(epochs) * EPOCH[data]
        assert rate.power == 0.9 and rate(0.0) == 1e-6
    assert f"dinov2_vit{size[0]}14_pretrain" in cfg.train.vit_checkpoint


@pytest.fixture
def original(load_config: Callable[[str], DictConfig]) -> DictConfig:
    return load_config(ORIGINAL)


def test_the_originals_model(original: DictConfig) -> None:
    with torch.device("meta"):
        model = instantiate(original.model)
    pixel_decoder, decoder = model.head.pixel_decoder, model.head.transformer_decoder
    assert (pixel_decoder.embed_dim, pixel_decoder.mask_dim) == (256, 256)
    assert (decoder.num_classes, decoder.query_feat.num_embeddings) == (133, 100)
    assert len(decoder.layers) == 9 and decoder.layers[0].ffn.linear1.out_features == 2048
    assert list(original.model.thing_classes) == list(range(80))
    backbone = original.model.backbone
    assert backbone.vit_feature_fusion == "last" and backbone.drop_path_rate == 0.4
    assert list(backbone.vit.window_sizes) == ([14] * 5 + [56]) * 4
    assert not backbone.use_checkpoint and not backbone.vit.use_checkpoint
    thresholds = (original.model.object_mask_threshold, original.model.overlap_threshold)
    assert thresholds == (0.8, 0.8) and original.model.topk_per_image == 100
    assert "beitv2_large_patch16_224_pt1k_ft21k" in original.train.vit_checkpoint


def test_the_originals_recipe(original: DictConfig) -> None:
    rate = instantiate(original.lr_multiplier)
    assert (original.train.max_iter, rate.milestones) == (265_500, [191_750, 236_000])
    assert (rate.gamma, rate(0.0)) == (0.1, 1.0)  # no warm-up
    assert original.train.clip_grad == CLIPPING and not original.train.amp.enabled
    optimizer = original.optimizer
    assert (optimizer.params.decay_rate, optimizer.lr, optimizer.weight_decay) == (0.9, 1e-4, 0.05)
    assert not optimizer.params.first_layer_names  # the head trains at the full rate
    assert original.train.eval_period == 5_000
    train, test = original.dataloader.train, original.dataloader.test
    assert train.total_batch_size == 16
    assert repr(instantiate(train.mapper.augmentations)) == repr(coco_panoptic_train())
    assert repr(instantiate(test.mapper.augmentations)) == repr(resize([800], 1333))
