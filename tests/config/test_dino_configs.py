"""Models on DINOv2 and DINOv3: every head on every size, and the segmentors of their authors."""

from collections.abc import Callable

import pytest
import timm
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter import TimmViT, model_zoo
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.config.test_time import wrap_for_testing
from vit_adapter.engine.freezing import freeze_parameters

SIZES = {
    "dinov2": ("small", "base", "large"),
    "dinov3": ("small", "base", "large", "huge_plus", "7b"),
}
# With their schedules; semantic Mask2Former has another one on each family.
HEADS = {
    "coco/mask_rcnn": "3x",
    "coco/cascade_mask_rcnn": "3x",
    "coco/atss": "3x",
    "coco/mask2former_instance": "640_12ep",
    "coco/mask2former_panoptic": "640_12ep",
    "ade20k/semantic_fpn": "512_80k",
    "ade20k/upernet": "512_160k",
}
MATRIX = [
    *(
        f"{head}_vit_adapter_{size}_{family}_{schedule}"
        for head, schedule in HEADS.items()
        for family, sizes in SIZES.items()
        for size in sizes
    ),
    *(f"ade20k/mask2former_vit_adapter_{size}_dinov2_512_40k" for size in SIZES["dinov2"]),
]
DINOV2_SEGMENTOR = "ade20k/mask2former_vit_adapter_giant_dinov2_896_80k"
DINOV3_SEGMENTORS = {
    size: f"ade20k/mask2former_vit_adapter_{size}_dinov3_896_40k" for size in SIZES["dinov3"]
}
LoadConfig = Callable[[str], DictConfig]


def adapter_key(cfg: DictConfig) -> str:
    """The key of the adapter, which may be inside a pyramid."""
    return "model.backbone.bottom_up" if "bottom_up" in cfg.model.backbone else "model.backbone"


def build_on_meta(cfg: DictConfig) -> nn.Module:
    with torch.device("meta"):
        model = instantiate(cfg.model)
    if cfg.train.freeze:
        freeze_parameters(model, cfg.train.freeze)
    return model


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def trained_millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6


def test_every_head_has_every_size() -> None:
    assert {*MATRIX, DINOV2_SEGMENTOR, *DINOV3_SEGMENTORS.values()} <= set(model_zoo.list_configs())


@pytest.mark.parametrize("name", [n for n in MATRIX if "_7b_" in n or "_huge_plus_" in n])
def test_the_largest_are_frozen_unless_asked_for(name: str, load_config: LoadConfig) -> None:
    cfg = load_config(name)
    node = OmegaConf.select(cfg, adapter_key(cfg))
    assert node.mode == "frozen" and node.norm_taps and node.vit.final_norm
    assert not any(node.vit.window_sizes)
    with torch.device("meta"):
        adapter = instantiate(node)
    assert not any(parameter.requires_grad for parameter in adapter.vit.parameters())
    stored = sum(p.numel() * p.element_size() for p in adapter.vit.parameters()) / 1e9
    assert stored == pytest.approx(13.4 if "_7b_" in name else 3.4, abs=0.1)


# Those of this project's own ViT have the layout of published models, which have no registers.
WITH_TIMM = [
    name
    for name in MATRIX
    if "_dinov2_" in name and not name.startswith(("coco/mask_rcnn", "coco/mask2former"))
]


@pytest.mark.parametrize("name", WITH_TIMM)
def test_registers_are_one_override(name: str, load_config: LoadConfig) -> None:
    cfg = load_config(name)
    key = f"{adapter_key(cfg)}.vit"
    plain = OmegaConf.select(cfg, key).name
    assert cfg.train.vit_checkpoint == f"timm:{plain}.lvd142m"
    assert timm.is_model_pretrained(cfg.train.vit_checkpoint.removeprefix("timm:"))
    for prefix_tokens, with_registers in ((1, plain), (5, plain.replace("14_", "14_reg4_"))):
        apply_overrides(cfg, [f"{key}.name={with_registers}"])
        assert cfg.train.vit_checkpoint == f"timm:{with_registers}.lvd142m"
        assert timm.is_model_pretrained(cfg.train.vit_checkpoint.removeprefix("timm:"))
        with torch.device("meta"):
            vit = instantiate(OmegaConf.select(cfg, key))
        assert isinstance(vit, TimmViT) and vit.num_prefix_tokens == prefix_tokens
        assert tuple(vit.model.patch_embed.grid_size) == (37, 37)  # of the pre-training


@pytest.mark.parametrize("size", SIZES["dinov3"])
def test_dinov3_weights_and_input_agree_with_timm(size: str, load_config: LoadConfig) -> None:
    names = [DINOV3_SEGMENTORS[size], *(n for n in MATRIX if f"_{size}_dinov3_" in n)]
    for cfg in map(load_config, names):
        weights = cfg.train.vit_checkpoint.removeprefix("timm:")
        assert timm.is_model_pretrained(weights)
        vit = OmegaConf.select(cfg, adapter_key(cfg)).vit
        assert timm.models.get_arch_name(weights) == vit.name
        published = timm.get_pretrained_cfg(weights)
        assert cfg.model.pixel_mean == pytest.approx([255 * value for value in published.mean])
        assert cfg.model.pixel_std == pytest.approx([255 * value for value in published.std])


@pytest.mark.parametrize("size", ["large", "huge_plus", "7b"])
def test_dinov3_head(size: str, load_config: LoadConfig) -> None:
    cfg = load_config(DINOV3_SEGMENTORS[size])
    pixel_decoder = cfg.model.head.pixel_decoder
    decoder = cfg.model.head.transformer_decoder
    widths = (pixel_decoder.embed_dim, decoder.embed_dim, pixel_decoder.mask_dim, decoder.mask_dim)
    assert widths == (2048,) * 4
    assert (pixel_decoder.num_heads, decoder.num_heads) == (16, 16)
    assert (pixel_decoder.ffn_dim, decoder.ffn_dim) == (4096, 4096)
    assert (pixel_decoder.num_layers, decoder.num_layers, decoder.num_queries) == (6, 9, 100)
    assert (cfg.model.backbone.deform_num_heads, cfg.model.backbone.deform_ratio) == (16, 0.5)


@pytest.mark.parametrize("size", SIZES["dinov3"])
def test_dinov3_segmentor(size: str, load_config: LoadConfig) -> None:
    cfg = load_config(DINOV3_SEGMENTORS[size])
    backbone, window = cfg.model.backbone, cfg.test.sliding_window
    last = {12: [2, 5, 8, 11], 24: [4, 11, 17, 23], 32: [7, 15, 23, 31], 40: [9, 19, 29, 39]}
    taps = [last_block for _, last_block in backbone.interaction_indexes]
    assert taps == last[backbone.vit.depth]
    assert (backbone.mode, backbone.vit_feature_fusion) == ("frozen", "per_interaction")
    assert backbone.norm_taps and backbone.vit.final_norm and not any(backbone.vit.window_sizes)
    assert (backbone.norm_eps, backbone.drop_path_rate) == (1e-6, 0.3)
    assert cfg.model.resize_masks_first and window.square_if_small
    assert (list(window.crop_size), list(window.stride)) == ([896] * 2, [596] * 2)
    assert cfg.test.multi_scale.short_sides == [832, 864, 896, 940, 985]
    assert cfg.model.head.transformer_decoder.num_classes == 150


@pytest.mark.parametrize("name", [*DINOV3_SEGMENTORS.values(), DINOV2_SEGMENTOR])
def test_segmentors_have_losses_and_a_matcher(name: str, load_config: LoadConfig) -> None:
    criterion = load_config(name).model.criterion
    assert (criterion.class_weight, criterion.mask_weight, criterion.dice_weight) == (2, 5, 5)
    costs = criterion.matcher
    assert (costs.cost_class, costs.cost_mask, costs.cost_dice) == (2, 5, 5)
    sampling = (
        criterion.num_points,
        criterion.oversample_ratio,
        criterion.importance_sample_ratio,
    )
    assert sampling == (12544, 3.0, 0.75)


def test_dinov3_7b_has_the_released_sizes(load_config: LoadConfig) -> None:
    model = build_on_meta(load_config(DINOV3_SEGMENTORS["7b"]))
    adapter = millions(model.backbone) - millions(model.backbone.vit)
    assert adapter == pytest.approx(227.08, abs=0.005)
    assert millions(model.head) == pytest.approx(700.34, abs=0.005)
    assert millions(model.backbone.vit) == pytest.approx(6716.04, abs=0.03)  # unused norm, token
    assert trained_millions(model) == pytest.approx(227.08 + 700.34, abs=0.01)


def test_dinov3_large_has_the_size_that_the_authors_code_builds(load_config: LoadConfig) -> None:
    model = build_on_meta(load_config(DINOV3_SEGMENTORS["large"]))
    # Theirs has biases of the queries and values, and a mask of as many ones and zeros.
    assert millions(model) == pytest.approx(995.06 - 2 * 24 * 3 * 1024 / 1e6, abs=0.02)


def test_dinov2_giant(load_config: LoadConfig) -> None:
    cfg = load_config(DINOV2_SEGMENTOR)
    model = build_on_meta(cfg)
    total, trained = millions(model), trained_millions(model)
    assert total == pytest.approx(1719.8, abs=0.1)
    assert total - trained == pytest.approx(1136.5, abs=0.1)  # 66 %, as published
    backbone, vit = cfg.model.backbone, cfg.model.backbone.vit
    assert (backbone.mode, backbone.vit_feature_fusion) == ("full", "per_interaction")
    deformable = (backbone.deform_num_heads, backbone.deform_ratio, backbone.cffn_ratio)
    assert deformable == (24, 0.5, 0.25)
    assert (vit.patch_size, vit.drop_path_rate, backbone.drop_path_rate) == (14, 0.4, 0.4)
    assert not vit.antialias_positions
    assert tuple(model.backbone.vit.model.patch_embed.grid_size) == (37, 37)
    assert [last for _, last in backbone.interaction_indexes] == [9, 19, 29, 39]
    decoder = cfg.model.head.transformer_decoder
    assert (decoder.embed_dim, decoder.num_heads, decoder.ffn_dim) == (1536, 32, 6144)
    assert not cfg.model.resize_masks_first
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1.8e-5, 3.2e-3)


@pytest.mark.parametrize("name", [n for n in MATRIX if "dinov3" in n and "coco/mask2former" in n])
def test_dinov3_recipe_is_that_of_dinov2(name: str, load_config: LoadConfig) -> None:
    cfg, other = load_config(name), load_config("_base_dinov2_".join(split(name)))
    for part in ("data", "dataloader", "optimizer", "lr_multiplier", "task", "test"):
        assert cfg[part] == other[part]
    del cfg.train.vit_checkpoint, other.train.vit_checkpoint
    assert cfg.train == other.train
    assert cfg.model.head.transformer_decoder == other.model.head.transformer_decoder
    assert cfg.model.criterion == other.model.criterion


def split(name: str) -> tuple[str, str]:
    """What is before the size and after the family."""
    start, end = name.split("_dinov3_")
    return start[: start.index("vit_adapter") + len("vit_adapter")], end


@pytest.mark.parametrize("head", ["mask_rcnn", "semantic_fpn"])
def test_small_models_train_the_vit_at_a_lower_rate(head: str, load_config: LoadConfig) -> None:
    """If an override of the mode makes them train it at all."""
    cfg = load_config(f"quick_start/{head}_vit_adapter_small_dinov2")
    rates = {}
    for mode in ("frozen", "full"):
        apply_overrides(cfg, [f"model.backbone.bottom_up.mode={mode}"])
        model = cfg.optimizer.params.model = build_on_meta(cfg)
        vit = {id(parameter) for parameter in model.backbone.bottom_up.vit.parameters()}
        groups = instantiate(cfg.optimizer).param_groups
        assert all(g["weight_decay"] == 0 for g in groups if id(g["params"][0]) in vit)
        rates[mode] = {(id(p) in vit, g["lr"]) for g in groups for p in g["params"]}
    assert rates["frozen"] == {(False, 5e-4)}
    assert rates["full"] == {(False, 5e-4), (True, 5e-5)}


def reduce(cfg: DictConfig) -> None:
    """A small version of a segmentor."""
    small = {
        "model.backbone.vit.depth": 4,
        "model.backbone.vit.embed_dim": 48,
        "model.backbone.vit.model_args": {"num_heads": 3},
        "model.backbone.interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]],
        "model.backbone.conv_inplane": 8,
        "model.backbone.deform_num_heads": 3,
        "model.backbone.norm": "BN",
        "model.head.pixel_decoder.embed_dim": 64,
        "model.head.pixel_decoder.num_layers": 1,
        "model.head.transformer_decoder.num_layers": 1,
        "model.criterion.num_points": 100,
        "test.sliding_window.crop_size": [64, 64],
        "test.sliding_window.stride": [40, 40],
    }
    for key, value in small.items():
        OmegaConf.update(cfg, key, value, merge=False)
    for part in (cfg.model.head.pixel_decoder, cfg.model.head.transformer_decoder):
        part.ffn_dim = 64


@pytest.mark.parametrize("name", [DINOV3_SEGMENTORS["base"], DINOV2_SEGMENTOR])
def test_segmentors_train_around_a_fixed_vit(name: str, load_config: LoadConfig) -> None:
    torch.manual_seed(0)
    cfg = load_config(name)
    reduce(cfg)
    model = instantiate(cfg.model)
    freeze_parameters(model, [r"backbone\.vit\."])
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    before = {key: value.clone() for key, value in model.named_parameters()}
    labels = torch.randint(cfg.model.head.transformer_decoder.num_classes, (64, 96))
    losses = model([{"image": torch.rand(3, 64, 96) * 255, "sem_seg": labels}])
    sum(losses.values()).backward()
    optimizer.step()
    for key, parameter in model.named_parameters():
        is_vit = key.startswith("backbone.vit.")
        assert (parameter.grad is None) == is_vit, key
        assert is_vit or not torch.equal(parameter, before[key]) or not parameter.grad.any(), key
    tested = wrap_for_testing(cfg, model.eval())
    (output,) = tested([{"image": torch.rand(3, 50, 110) * 255, "height": 25, "width": 55}])
    assert output["sem_seg"].shape == (150, 25, 55) and output["sem_seg"].isfinite().all()
