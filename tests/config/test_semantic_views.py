"""The sizes at which each published recipe tests images, at one scale and at several.

They follow from the original's test pipelines, which use mmcv's arithmetic: limits are scaled and
rounded down, sides are rounded half up and then stretched to multiples of 32, except for BEiT below
896 pixels and on Cityscapes. There the shorter side is at least that of the crop.
"""

from collections.abc import Callable

import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig
from torch import nn

from vit_adapter.config.test_time import wrap_for_testing

Size = tuple[int, int]  # (height, width)

PLAIN_512 = [
    "ade20k/semantic_fpn_vit_adapter_small_deit_512_80k",
    "ade20k/upernet_vit_adapter_large_augreg_512_160k",
    "ade20k/upernet_vit_adapter_large_uniperceiver_512_160k",
    "ade20k/upernet_vit_tiny_deit_512_160k",
]
ADE_640 = [
    "ade20k/mask2former_vit_adapter_large_beit_640_160k",
    "ade20k/upernet_vit_adapter_large_beit_640_160k",
]
COCO_512 = [
    "ade20k/upernet_vit_large_beit_512_160k",
    "coco_stuff_10k/mask2former_vit_adapter_base_beit_512_40k",
    "coco_stuff_10k/mask2former_vit_adapter_large_beit_512_40k",
    "coco_stuff_10k/upernet_vit_adapter_large_beit_512_80k",
]
PASCAL_480 = [
    "pascal_context/mask2former_vit_adapter_base_beit_480_40k",
    "pascal_context/mask2former_vit_adapter_large_beit_480_40k",
    "pascal_context/upernet_vit_adapter_large_beit_480_80k",
]
BEIT_896 = [
    "ade20k/mask2former_vit_adapter_large_beit_896_80k",
    "coco_stuff_164k/mask2former_vit_adapter_large_beit_896_80k",
]
BEITV2_896 = [
    "ade20k/mask2former_vit_adapter_large_beitv2_896_80k",
    "ade20k/mask2former_vit_adapter_large_beitv2_896_160k",
    "coco_stuff_164k/mask2former_vit_adapter_large_beitv2_896_80k",
]
DINOV3_896 = [
    "ade20k/mask2former_vit_adapter_base_dinov3_896_40k",
    "ade20k/mask2former_vit_adapter_7b_dinov3_896_40k",
]
DINOV2_896 = ["ade20k/mask2former_vit_adapter_giant_dinov2_896_80k"]
CITYSCAPES = ["cityscapes/mask2former_vit_adapter_large_beit_896_80k"]

# configs, size of the image, size at a single scale, sizes of the views
EXPECTED: list[tuple[list[str], Size, Size, list[Size]]] = [
    (
        PLAIN_512, (512, 683), (512, 704),
        [(256, 352), (384, 512), (512, 704), (640, 864), (768, 1056), (896, 1216)],
    ),
    (  # the limit of the longer side, 2048, decides
        PLAIN_512, (1600, 256), (2048, 352),
        [(1024, 192), (1536, 256), (2048, 352), (2560, 416), (3072, 512), (3584, 576)],
    ),
    (
        ADE_640, (512, 683), (640, 864),
        [(640, 854), (640, 854), (640, 854), (800, 1067), (960, 1281), (1120, 1494)],
    ),
    (  # the limit of the longer side counts at a single scale only
        ADE_640, (256, 1600), (352, 2048),
        [(640, 4000), (640, 4000), (640, 4000), (800, 5000), (960, 6000), (1120, 7000)],
    ),
    (
        ["coco_stuff_164k/upernet_vit_adapter_large_beit_640_80k"], (480, 640), (640, 864),
        [(640, 853), (640, 853), (640, 853), (800, 1067), (960, 1280), (1120, 1493)],
    ),
    (
        COCO_512, (480, 640), (512, 704),
        [(512, 683), (512, 683), (512, 683), (640, 853), (768, 1024), (896, 1195)],
    ),
    (
        PASCAL_480, (500, 375), (704, 544),
        [(640, 480), (640, 480), (693, 520), (867, 650), (1040, 780), (1213, 910)],
    ),
    (BEIT_896, (512, 683), (896, 1216), [(640, 864), (768, 1056), (896, 1216)]),
    (
        BEITV2_896, (512, 683), (896, 1216),
        [(800, 1088), (832, 1120), (864, 1184), (896, 1216)],
    ),
    (
        DINOV2_896, (512, 683), (896, 1216),
        [(448, 608), (672, 896), (896, 1216), (1120, 1504), (1344, 1793 // 32 * 32 + 32),
         (1568, 2112)],
    ),
    (
        DINOV3_896, (512, 683), (896, 1195),
        [(832, 1110), (864, 1153), (896, 1195), (940, 1254), (985, 1314)],
    ),
    (  # no limit of the longer side
        DINOV3_896, (1600, 256), (5600, 896),
        [(5200, 832), (5400, 864), (5600, 896), (5875, 940), (6156, 985)],
    ),
    (
        CITYSCAPES, (1024, 2048), (1024, 2048),
        [(896, 1792), (896, 1792), (1024, 2048), (1280, 2560), (1536, 3072), (1792, 3584),
         (2048, 4096)],
    ),
]  # fmt: skip
CASES = [(name, *row) for names, *row in EXPECTED for name in names]


def views(cfg: DictConfig, size: Size) -> list[Size]:
    """The sizes of the views that the model sees; mirrored views have the same size."""
    cfg.test.sliding_window = None
    model = nn.Identity().eval()
    augmented = T.AugInput(np.zeros((*size, 3), np.uint8))
    T.AugmentationList(instantiate(cfg.dataloader.test.mapper.augmentations))(augmented)
    shape = augmented.image.shape[:2]
    wrapped = wrap_for_testing(cfg, model)
    if wrapped is model:
        return [shape]
    assert wrapped.flip and shape == size  # views are made from the original image
    return wrapped.view_sizes(*shape)


@pytest.mark.parametrize(("name", "size", "single", "several"), CASES)
def test_views_are_the_originals(
    name: str,
    size: Size,
    single: Size,
    several: list[Size],
    load_config: Callable[[str], DictConfig],
) -> None:
    cfg = load_config(name)
    assert views(cfg, size) == [single]
    cfg = load_config(name)
    cfg.test.multi_scale.enabled = True
    assert views(cfg, size) == several


def test_a_single_scale_with_a_flip(load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config("ade20k/mask2former_vit_adapter_large_beitv2_896_80k")
    single = views(cfg, (512, 683))
    cfg.test.multi_scale.update(enabled=True, scales=[1.0])
    assert views(cfg, (512, 683)) == single
