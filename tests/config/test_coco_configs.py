"""The numbers of the COCO configs: models, schedules, recipes."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter import model_zoo
from vit_adapter.data import coco_1x_train, coco_3x_train, coco_test
from vit_adapter.detection import ChannelMapper

COCO = [
    name
    for name in model_zoo.list_configs()
    if re.match("coco/mask_rcnn_vit.*_(deit|augreg)_", name)  # those of the paper
]
TRAIN_IMAGES = 117_266  # images of COCO train2017 with annotations
EPOCHS = {"1x": 12, "3x": 36}

# Published parameter counts of Mask R-CNN in millions, and the exact counts. The base size is for
# DeiT weights: the 384 px position grid of AugReg would add 0.29 M, which the published 99.8 M of
# the backbone include but the 120.2 M of the detector do not.
PARAMETERS = {
    ("vit_adapter", "tiny"): ("28.1", 28_068_512),
    ("vit_adapter", "small"): ("47.8", 47_802_368),
    ("vit_adapter", "base"): ("120.2", 120_187_088),
    ("vit_adapter", "large"): ("347.9", 347_927_472),
    ("vit", "tiny"): ("26.1", 26_075_184),
    ("vit", "small"): ("43.8", 43_746_672),
    ("vit", "base"): ("113.6", 113_594_352),
    ("vit", "large"): ("337.3", 337_286_896),
    ("vitdet", "tiny"): ("26.6", 26_557_488),
    ("vitdet", "small"): ("45.7", 45_669_744),
    ("vitdet", "base"): ("121.3", 121_274_352),
    ("vitdet", "large"): ("350.9", 350_934_768),
}
# embed_dim, depth, num_heads, img_size
SIZES = {
    "tiny": (192, 12, 3, 224),
    "small": (384, 12, 6, 224),
    "base": (768, 12, 12, 224),
    "large": (1024, 24, 16, 384),
}
DROP_PATH = {
    "vit_adapter": {"tiny": 0.1, "small": 0.2, "base": 0.3, "large": 0.4},
    "vit": {"tiny": 0.1, "small": 0.1, "base": 0.1, "large": 0.4},
    "vitdet": {"tiny": 0.1, "small": 0.1, "base": 0.1, "large": 0.4},
}
DEFORM_HEADS_AND_RATIO = {
    "tiny": (6, 1.0),
    "small": (6, 1.0),
    "base": (12, 0.5),
    "large": (16, 0.5),
}
WEIGHTS = {
    "tiny": "https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth",
    "small": "https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
    "base": "https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth",
    "large": "https://storage.googleapis.com/vit_models/augreg/L_16-i21k-300ep-lr_0.001-aug_medium1"
    "-wd_0.1-do_0.1-sd_0.1--imagenet2012-steps_20k-lr_0.01-res_384.npz",
}


@dataclass
class Leaf:
    """A config and the parts of its name."""

    name: str
    cfg: DictConfig
    backbone: str
    size: str
    schedule: str


@pytest.fixture(params=COCO)
def leaf(request: pytest.FixtureRequest, load_config: Callable[[str], DictConfig]) -> Leaf:
    pattern = r"mask_rcnn_(vit_adapter|vitdet|vit)_(\w+)_(?:deit|augreg)_([13]x)"
    name = request.param
    return Leaf(name, load_config(name), *re.search(pattern, name).groups())


@pytest.mark.parametrize(("backbone", "size"), PARAMETERS)
def test_parameter_count_is_the_published_one(backbone: str, size: str) -> None:
    pretraining = "augreg" if size == "large" else "deit"
    cfg = model_zoo.get_config(f"coco/mask_rcnn_{backbone}_{size}_{pretraining}_3x")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    count = sum(param.numel() for param in model.parameters())
    published, exact = PARAMETERS[backbone, size]
    assert count == exact
    # The original's tool prints two decimals and the paper one: 43.747 -> 43.75 -> 43.8.
    printed = (Decimal(count) / 10**6).quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert str(printed.quantize(Decimal("0.1"), ROUND_HALF_UP)) == published


def test_without_fpn_only_the_neck_differs() -> None:
    cfg = model_zoo.get_config("coco/mask_rcnn_no_fpn_vit_adapter_small_deit_3x")
    with_fpn = model_zoo.get_config("coco/mask_rcnn_vit_adapter_small_deit_3x")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert isinstance(model.backbone, ChannelMapper)
    assert sum(param.numel() for param in model.parameters()) == 45_442_048
    assert cfg.model.backbone.bottom_up == with_fpn.model.backbone.bottom_up
    del cfg.model.backbone, with_fpn.model.backbone
    assert cfg == with_fpn


def test_backbone(leaf: Leaf) -> None:
    backbone = leaf.cfg.model.backbone.bottom_up
    vit = backbone.vit
    assert (vit.embed_dim, vit.depth, vit.num_heads, vit.img_size) == SIZES[leaf.size]
    global_blocks = [2, 5, 8, 11] if vit.depth == 12 else [5, 11, 17, 23]
    assert list(vit.window_sizes) == [0 if i in global_blocks else 14 for i in range(vit.depth)]
    assert (vit.patch_size, vit.mlp_ratio, vit.qkv_bias, vit.layer_scale) == (16, 4.0, True, True)
    assert vit.drop_path_rate == DROP_PATH[leaf.backbone][leaf.size]
    if leaf.backbone == "vit_adapter":
        _check_adapter(backbone, leaf.size)
    else:
        assert list(backbone.out_indexes) == global_blocks


def _check_adapter(backbone: DictConfig, size: str) -> None:
    ranges = [[0, 2], [3, 5], [6, 8], [9, 11]]
    if size == "large":
        ranges = [[0, 5], [6, 11], [12, 17], [18, 23]]
    assert backbone.interaction_indexes == ranges
    assert (backbone.deform_num_heads, backbone.deform_ratio) == DEFORM_HEADS_AND_RATIO[size]
    assert (backbone.conv_inplane, backbone.num_points, backbone.cffn_ratio) == (64, 4, 0.25)
    assert (backbone.with_cffn, backbone.use_extra_extractor) == (True, True)
    assert (backbone.vit_feature_fusion, backbone.norm) == ("last", "SyncBN")
    assert backbone.init_values == 0.0
    # Extractors have the full rate.
    assert backbone.drop_path_rate == backbone.vit.drop_path_rate


def test_drop_path_reaches_the_modules() -> None:
    cfg = model_zoo.get_config("coco/mask_rcnn_vit_adapter_tiny_deit_3x")
    with torch.device("meta"):
        model = instantiate(cfg.model.backbone.bottom_up)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.vit.blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])
    extractors = [m for m in model.modules() if type(m).__name__ == "Extractor"]
    assert [m.drop_path.drop_prob for m in extractors] == [0.1] * 6  # four and two extra ones


def test_iterations_are_epochs_times_images_over_batch(leaf: Leaf) -> None:
    cfg = leaf.cfg
    iters_per_epoch = math.ceil(TRAIN_IMAGES / cfg.dataloader.train.total_batch_size)
    assert iters_per_epoch == 7330
    assert cfg.train.max_iter == EPOCHS[leaf.schedule] * iters_per_epoch
    assert cfg.train.eval_period == cfg.train.checkpointer.period == iters_per_epoch


def test_learning_rate_schedule(leaf: Leaf) -> None:
    cfg = leaf.cfg
    schedule = instantiate(cfg.lr_multiplier)
    first, second = [epoch * 7330 for epoch in {"1x": (8, 11), "3x": (27, 33)}[leaf.schedule]]
    expected = {
        0: 0.001,
        250: 0.5005,
        500: 1.0,
        first - 1: 1.0,
        first: 0.1,
        second - 1: 0.1,
        second: 0.01,
        cfg.train.max_iter - 1: 0.01,
    }
    computed = {i: schedule(i / cfg.train.max_iter) for i in expected}
    assert computed == pytest.approx(expected, rel=1e-9)


def test_optimizer(leaf: Leaf) -> None:
    optimizer = leaf.cfg.optimizer
    original_tiny_1x = leaf.name == "coco/mask_rcnn_vit_adapter_tiny_deit_1x"
    assert (optimizer.lr, optimizer.weight_decay) == (
        (2e-4, 0.01) if original_tiny_1x else (1e-4, 0.05)
    )
    params = optimizer.params
    assert (params.base_lr, params.weight_decay) == (optimizer.lr, optimizer.weight_decay)
    if leaf.size == "large":
        assert params.decay_rate == 0.8
    else:
        keys = {key: dict(value) for key, value in params.custom_keys.items()}
        no_decay = ("level_embed", "pos_embed", "norm", "bias")
        assert keys == {key: {"decay_mult": 0.0} for key in no_decay}


def test_input(leaf: Leaf) -> None:
    model = leaf.cfg.model
    imagenet = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    half = [127.5] * 3, [127.5] * 3
    assert (model.pixel_mean, model.pixel_std) == (half if leaf.size == "large" else imagenet)
    assert leaf.cfg.train.vit_checkpoint == WEIGHTS[leaf.size]
    loaders = leaf.cfg.dataloader
    assert model.input_format == "RGB"
    assert {loaders.train.mapper.image_format, loaders.test.mapper.image_format} == {"RGB"}
    train = instantiate(loaders.train.mapper.augmentations)
    expected = {"1x": coco_1x_train, "3x": coco_3x_train}[leaf.schedule]()
    assert repr(train) == repr(expected)
    assert repr(instantiate(loaders.test.mapper.augmentations)) == repr(coco_test())


def test_training_is_in_float32(leaf: Leaf) -> None:
    assert not leaf.cfg.train.amp.enabled


def test_heads_are_those_of_the_original() -> None:
    with torch.device("meta"):
        model = instantiate(model_zoo.get_config(COCO[0]).model)
    shapes = {name: tuple(param.shape) for name, param in model.named_parameters()}
    expected = {
        "proposal_generator.rpn_head.objectness_logits.weight": (3, 256, 1, 1),
        "roi_heads.box_head.fc1.weight": (1024, 12544),
        "roi_heads.box_head.fc2.weight": (1024, 1024),
        "roi_heads.box_predictor.cls_score.weight": (81, 1024),
        "roi_heads.box_predictor.bbox_pred.weight": (320, 1024),  # one box per class
        "roi_heads.mask_head.deconv.weight": (256, 256, 2, 2),
        "roi_heads.mask_head.predictor.weight": (80, 256, 1, 1),
    }
    assert {name: shapes[name] for name in expected} == expected
    rpn, roi = model.proposal_generator, model.roi_heads
    assert (rpn.pre_nms_topk, rpn.post_nms_topk) == (
        {True: 2000, False: 1000},
        {True: 1000, False: 1000},
    )
    assert (rpn.nms_thresh, rpn.batch_size_per_image, rpn.smooth_l1_beta) == (0.7, 256, 0.0)
    predictor = roi.box_predictor
    assert (roi.batch_size_per_image, roi.positive_fraction, predictor.smooth_l1_beta) == (
        512,
        0.25,
        0.0,
    )
    assert (
        predictor.test_score_thresh,
        predictor.test_nms_thresh,
        predictor.test_topk_per_image,
    ) == (0.05, 0.5, 100)
