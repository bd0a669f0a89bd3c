"""Mask R-CNN on ViTs with other pre-trainings: Uni-Perceiver, BEiT, DINOv2 and others."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf

from vit_adapter import UniPerceiver, model_zoo
from vit_adapter.backbone import BEiT

# Size and pre-training: layer decay, drop path
RECIPES = {
    ("base", "uniperceiver"): (0.65, 0.2),
    ("small", "dinov2"): (0.70, 0.2),
    ("base", "dinov2"): (0.60, 0.3),
    ("large", "dinov2"): (0.65, 0.4),
    ("small", "dinov3"): (0.70, 0.2),
    ("base", "dinov3"): (0.60, 0.3),
    ("large", "dinov3"): (0.65, 0.4),
    ("base", "beit3"): (0.70, 0.3),
    ("large", "beit3"): (0.80, 0.4),
    ("base", "eva02"): (0.70, 0.3),
    ("large", "eva02"): (0.80, 0.4),
}
HEADS_AND_RATIO = {"small": (6, 1.0), "base": (12, 0.5), "large": (16, 0.5)}
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def config_name(size: str, pretraining: str) -> str:
    return f"coco/mask_rcnn_vit_adapter_{size}_{pretraining}_3x"


@pytest.mark.parametrize(("size", "pretraining"), RECIPES)
def test_recipe(size: str, pretraining: str, load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(config_name(size, pretraining))
    decay, drop_path = RECIPES[size, pretraining]
    optimizer, adapter = cfg.optimizer, cfg.model.backbone.bottom_up
    assert optimizer.params.decay_rate == decay
    assert (optimizer.lr, optimizer.weight_decay) == (1e-4, 0.05)
    assert (adapter.vit.drop_path_rate, adapter.drop_path_rate) == (drop_path, drop_path)
    assert (adapter.deform_num_heads, adapter.deform_ratio) == HEADS_AND_RATIO[size]
    depth = adapter.vit.depth
    assert depth == (24 if size == "large" else 12)
    assert list(adapter.vit.window_sizes) == ([14] * (depth // 4 - 1) + [0]) * 4
    assert [last + 1 for _, last in adapter.interaction_indexes] == [
        depth // 4 * i for i in (1, 2, 3, 4)
    ]
    if pretraining == "dinov2":
        assert adapter.vit.img_size == 592
        assert re.search(rf"dinov2_vit{size[0]}14_pretrain\.pth$", cfg.train.vit_checkpoint)


OF_TIMM = [key for key in RECIPES if key[1] not in ("uniperceiver", "dinov2")]


@pytest.mark.parametrize(("size", "pretraining"), OF_TIMM)
def test_weights_and_input_agree_with_timm(
    size: str, pretraining: str, load_config: Callable[[str], DictConfig]
) -> None:
    cfg = load_config(config_name(size, pretraining))
    weights = cfg.train.vit_checkpoint.removeprefix("timm:")
    vit = cfg.model.backbone.bottom_up.vit
    assert timm.is_model_pretrained(weights)
    assert timm.models.get_arch_name(weights) == vit.name
    published = timm.get_pretrained_cfg(weights)
    assert cfg.model.pixel_mean == pytest.approx([255 * value for value in published.mean])
    assert cfg.model.pixel_std == pytest.approx([255 * value for value in published.std])
    with torch.device("meta"):
        assert len(timm.create_model(vit.name).blocks) == vit.depth


@pytest.mark.parametrize(
    ("size", "pretraining"), [key for key in RECIPES if key[1] in ("uniperceiver", "dinov2")]
)
def test_published_models_use_imagenet_statistics(
    size: str, pretraining: str, load_config: Callable[[str], DictConfig]
) -> None:
    model = load_config(config_name(size, pretraining)).model
    assert (model.pixel_mean, model.pixel_std) == IMAGENET


def test_uniperceiver(load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(config_name("base", "uniperceiver"))
    assert cfg.train.vit_checkpoint.endswith(
        "/uni-perceiver-base-L12-H768-224size-torch-pretrained_converted.pth"
    )
    assert cfg.train.max_iter == 263_880 and not cfg.train.amp.enabled
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert isinstance(model.backbone.bottom_up.vit, UniPerceiver)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, model.backbone.bottom_up)]
    assert counts == [120_194_000, 99_502_304]
    cfg.optimizer.params.model = model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(parameter)].removeprefix("backbone.bottom_up."): group["lr"]
        for group in instantiate(cfg.optimizer).param_groups
        for parameter in group["params"]
    }
    expected = {
        "vit.visual_embed.patch_embed.proj.weight": 0.65**13,
        "vit.layers.0.linear1.weight": 0.65**12,
        "vit.layers.11.linear1.weight": 0.65,
        "level_embed": 1.0,
    }
    assert {name: rates[name] / 1e-4 for name in expected} == pytest.approx(expected)


def test_beit(load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(config_name("base", "beit"))
    assert cfg.train.vit_checkpoint.endswith("/beit_base_patch16_224_pt22k_ft22kto1k.pth")
    assert cfg.train.max_iter == 263_880 and not cfg.train.amp.enabled
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 0.05)
    assert "decay_rate" not in cfg.optimizer.params
    assert (cfg.model.pixel_mean, cfg.model.pixel_std) == IMAGENET
    adapter = cfg.model.backbone.bottom_up
    assert list(adapter.vit.window_sizes) == [14, 14, 56] * 4
    assert (adapter.vit.drop_path_rate, adapter.drop_path_rate) == (0.1, 0.1)
    assert (adapter.vit.init_values, adapter.init_values) == (0.0, 0.0)
    assert (adapter.vit.use_checkpoint, adapter.use_checkpoint) == (True, True)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert isinstance(model.backbone.bottom_up.vit, BEiT)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, model.backbone.bottom_up)]
    assert counts == [120_687_968, 99_996_272]


def reduce(cfg: DictConfig) -> None:
    """A small version of a config: four narrow blocks and narrow heads."""
    in_timm = "name" in cfg.model.backbone.bottom_up.vit
    heads = {"model_args": {"num_heads": 3}} if in_timm else {"num_heads": 3}
    overrides = {
        **{f"backbone.bottom_up.vit.{key}": value for key, value in heads.items()},
        "backbone.bottom_up.vit.depth": 4,
        "backbone.bottom_up.vit.window_sizes": [3, 3, 0, 0],
        "backbone.bottom_up.vit.embed_dim": 48,
        "backbone.bottom_up.interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]],
        "backbone.bottom_up.conv_inplane": 8,
        "backbone.bottom_up.deform_num_heads": 3,
        "backbone.bottom_up.norm": "BN",
        "backbone.out_channels": 16,
        "roi_heads.box_head.fc_dims": [32, 32],
        "roi_heads.mask_head.conv_dims": [16, 16],
        "proposal_generator.post_nms_topk": [50, 50],
        "roi_heads.box_predictor.test_score_thresh": 0.0,
    }
    for key, value in overrides.items():
        OmegaConf.update(cfg.model, key, value, merge=False)


def example(height: int, width: int) -> dict[str, object]:
    """An image with two boxes and their masks, as the mapper returns it."""
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 8:40, 8:48], masks[1, 20:60, 40:80] = True, True
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8, 48, 40], [40, 20, 80, 60]]))
    instances.gt_classes = torch.tensor([3, 17])
    instances.gt_masks = BitMasks(masks)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return {"image": image, "instances": instances, "height": height, "width": width}


TRAINED = [config_name("base", pretraining) for pretraining in ("beit", "beit3", "dinov3", "eva02")]
NO_FPN = "coco/mask_rcnn_no_fpn_vit_adapter_small_deit_3x"


@pytest.mark.parametrize("name", [*TRAINED, NO_FPN])
def test_training_step_and_prediction(name: str, load_config: Callable[[str], DictConfig]) -> None:
    torch.manual_seed(0)
    cfg = load_config(name)
    reduce(cfg)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    vit = model.backbone.bottom_up.vit
    block = getattr(vit, "model", vit).blocks[0].mlp.fc2.weight
    before = block.detach().clone()
    with EventStorage():
        losses = model([example(70, 100), example(96, 64)])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    optimizer.step()
    assert not torch.equal(block, before)
    model.eval()
    image = example(70, 100)
    del image["instances"]
    with torch.no_grad():
        (prediction,) = model([image])
    instances = prediction["instances"]
    assert len(instances) > 0
    assert instances.pred_masks.shape[1:] == (70, 100)


def test_all_are_listed() -> None:
    assert {config_name(*key) for key in RECIPES} <= set(model_zoo.list_configs())
