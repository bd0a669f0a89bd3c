"""The published training recipes of the segmentors, row by row as in the original's tables."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from omegaconf import DictConfig

IMAGENET, HALF = [123.675, 116.28, 103.53], [127.5] * 3


class Recipe(NamedTuple):
    """The content of a row apart from the name of its config."""

    lr: float
    weight_decay: float
    layer_decay: float | None  # None: by names
    drop_path: float
    checkpointing: bool
    pixel_mean: list[float]
    width: int  # of the head
    queries: int | None
    scale: tuple[int, int]
    test_scale: tuple[int, int]
    stride: int
    lowest_multi_scale_ratio: float


def upernet(lr: float, decay: float | None, drop_path: float, **changes: object) -> Recipe:
    """A row of UPerNet at 512 pixels."""
    row = Recipe(
        lr, 0.01, decay, drop_path, False, IMAGENET, 512, None, (2048, 512), (2048, 512), 341, 0.5
    )
    return row._replace(**changes)


def beit(crop: int, stride: int, queries: int | None, **changes: object) -> Recipe:
    """A row of BEiT-L."""
    scale = (2048, crop)
    row = Recipe(2e-5, 0.05, 0.9, 0.3, True, IMAGENET, 1024, queries, scale, scale, stride, 0.5)
    return row._replace(**changes)


LARGE = dict(checkpointing=True, weight_decay=0.05)
BASE = dict(lr=3e-5, layer_decay=0.95, drop_path=0.2, checkpointing=False, width=256)
WIDE = dict(scale=(3584, 896), test_scale=(3584, 896))  # limits of images for crops of 896 pixels
CITY = dict(scale=(2048, 1024), test_scale=(2048, 1024))
PASCAL = dict(scale=(520, 520), test_scale=(4096, 520))
PADDED, PADDED_V2 = dict(lowest_multi_scale_ratio=5 / 7), dict(lowest_multi_scale_ratio=25 / 28)

RECIPES = {
    "ade20k/upernet_vit_adapter_tiny_deit_512_160k": upernet(12e-5, 0.95, 0.1),
    "ade20k/upernet_vit_adapter_small_deit_512_160k": upernet(6e-5, 0.95, 0.2),
    "ade20k/upernet_vit_adapter_base_deit_512_160k": upernet(6e-5, 0.95, 0.3),
    "ade20k/upernet_vit_adapter_single_base_deit_512_160k": upernet(6e-5, 0.95, 0.3),
    "ade20k/upernet_vit_adapter_tiny_augreg_512_160k": upernet(12e-5, 0.95, 0.1),
    "ade20k/upernet_vit_adapter_base_augreg_512_160k": upernet(2e-5, None, 0.3, pixel_mean=HALF),
    "ade20k/upernet_vit_adapter_large_augreg_512_160k": upernet(
        2e-5, 0.95, 0.4, pixel_mean=HALF, **LARGE
    ),
    "ade20k/upernet_vit_adapter_large_uniperceiver_512_160k": upernet(6e-5, 0.8, 0.4, **LARGE),
    "ade20k/upernet_vit_adapter_large_beit_640_160k": beit(640, 426, None),
    "ade20k/upernet_vit_large_beit_512_160k": beit(
        512, 341, None, drop_path=0.2, checkpointing=False
    ),
    "ade20k/mask2former_vit_adapter_large_beit_640_160k": beit(640, 426, 100),
    "ade20k/mask2former_vit_adapter_large_beit_896_80k": beit(896, 512, 200, **WIDE, **PADDED),
    "ade20k/mask2former_vit_adapter_large_beitv2_896_80k": beit(896, 512, 200, **WIDE, **PADDED_V2),
    "ade20k/mask2former_vit_adapter_large_beitv2_896_160k": beit(
        896, 512, 200, **WIDE, **PADDED_V2
    ),
    "cityscapes/mask2former_vit_adapter_large_beit_896_80k": beit(896, 512, 100, **CITY),
    "mapillary/mask2former_vit_adapter_large_beit_896_80k_for_cityscapes": beit(
        896, 512, 100, **CITY
    ),
    "coco_stuff_10k/mask2former_vit_adapter_base_beit_512_40k": beit(512, 341, 100, **BASE),
    "coco_stuff_10k/mask2former_vit_adapter_large_beit_512_40k": beit(512, 341, 100),
    "coco_stuff_10k/upernet_vit_adapter_large_beit_512_80k": beit(512, 341, None),
    "coco_stuff_164k/mask2former_vit_adapter_large_beit_896_80k": beit(
        896, 512, 200, **WIDE, **PADDED
    ),
    "coco_stuff_164k/mask2former_vit_adapter_large_beitv2_896_80k": beit(
        896, 512, 200, **WIDE, **PADDED_V2
    ),
    "coco_stuff_164k/upernet_vit_adapter_large_beit_640_80k": beit(
        640, 426, None, scale=(2560, 640), test_scale=(2560, 640)
    ),
    "pascal_context/mask2former_vit_adapter_base_beit_480_40k": beit(
        480, 320, 100, **BASE, **PASCAL
    ),
    "pascal_context/mask2former_vit_adapter_large_beit_480_40k": beit(480, 320, 100, **PASCAL),
    "pascal_context/upernet_vit_adapter_large_beit_480_80k": beit(480, 320, None, **PASCAL),
}


def read(cfg: DictConfig) -> Recipe:
    """The recipe in a config."""
    model, params, test = cfg.model, cfg.optimizer.params, cfg.test
    decoder = model.head.transformer_decoder if "head" in model else None
    return Recipe(
        lr=cfg.optimizer.lr,
        weight_decay=cfg.optimizer.weight_decay,
        layer_decay=params.get("decay_rate"),
        drop_path=model.backbone.vit.drop_path_rate,
        checkpointing=model.backbone.vit.use_checkpoint,
        pixel_mean=list(model.pixel_mean),
        width=decoder.embed_dim if decoder else model.sem_seg_head.main.channels,
        queries=decoder.num_queries if decoder else None,
        scale=tuple(cfg.data.scale),
        test_scale=tuple(cfg.data.test_scale),
        stride=test.sliding_window.stride[0],
        lowest_multi_scale_ratio=test.multi_scale.scales[0],
    )


@pytest.mark.parametrize("name", RECIPES)
def test_is_the_published_recipe(name: str, load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(name)
    assert read(cfg) == RECIPES[name]
    assert (cfg.lr_multiplier.power, cfg.lr_multiplier.warmup_iters) == (1.0, 1500)


def test_the_single_adapter_has_one_interaction(load_config: Callable[[str], DictConfig]) -> None:
    backbone = load_config("ade20k/upernet_vit_adapter_single_base_deit_512_160k").model.backbone
    assert backbone.interaction_indexes == [[0, 11]]
    assert not backbone.with_cffn and not backbone.use_extra_extractor
    assert backbone.vit_feature_fusion == "none"
