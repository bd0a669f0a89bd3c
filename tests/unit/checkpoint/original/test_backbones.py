"""Building our backbones from the original's classes and arguments."""

import pytest
import torch

from vit_adapter import PlainViT, ViTAdapter, ViTBaseline
from vit_adapter.checkpoint.original import build_backbone

DETECTION = "mmdet_custom.models.backbones.vit_adapter.ViTAdapter"
SEGMENTATION = "mmseg_custom.models.backbones.vit_adapter.ViTAdapter"
TINY = {
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "conv_inplane": 4,
    "deform_num_heads": 3,
    "interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]],
}
TINY_BASELINE = {"embed_dim": 32, "depth": 8, "num_heads": 2}


def trunk_of(cls: str, kwargs: dict[str, object]) -> PlainViT:
    return build_backbone(cls, {**TINY, **kwargs}).vit


@pytest.mark.parametrize(
    ("cls", "kwargs", "fusion"),
    [
        ("detection.ViTAdapter", {}, "last"),
        (DETECTION, {}, "last"),
        ("segmentation.ViTAdapter", {}, "per_interaction"),
        (SEGMENTATION, {}, "per_interaction"),
        (SEGMENTATION, {"add_vit_feature": False, "interaction_indexes": [[0, 3]]}, "none"),
        (DETECTION, {"add_vit_feature": False}, "none"),
    ],
)
def test_the_tree_decides_the_fusion(cls: str, kwargs: dict[str, object], fusion: str) -> None:
    adapter = build_backbone(cls, {**TINY, **kwargs})
    assert isinstance(adapter, ViTAdapter)
    assert adapter.vit_feature_fusion == fusion


def test_windows_come_from_two_arguments() -> None:
    lists = {"window_attn": [True, False, True, False], "window_size": [2, None, 14, 7]}
    scalars = {"window_attn": True, "window_size": 7}

    def windows(**kwargs: object) -> list[int]:
        return [block.attn.window_size for block in trunk_of(DETECTION, kwargs).blocks]

    assert windows() == [0, 0, 0, 0]
    assert windows(window_attn=True) == [14] * 4
    assert windows(**lists) == [2, 0, 14, 0]
    assert windows(**scalars) == [7] * 4


def test_layer_scale_comes_from_the_arguments() -> None:
    assert trunk_of(DETECTION, {}).blocks[0].gamma1 is not None
    assert trunk_of(DETECTION, {"layer_scale": False}).blocks[0].gamma1 is None


def test_recomputation_covers_what_it_covers_in_each_tree() -> None:
    for cls, interactions in ((DETECTION, False), (SEGMENTATION, True)):
        adapter = build_backbone(cls, {**TINY, "with_cp": True})
        assert adapter.vit.use_checkpoint
        assert adapter.interactions[0].use_checkpoint is interactions


def test_init_values_start_the_injectors() -> None:
    adapter = build_backbone(DETECTION, {**TINY, "init_values": 1e-6})
    assert torch.equal(adapter.interactions[0].injector.gamma, torch.full((24,), 1e-6))


def test_norm_by_name_keeps_the_keys() -> None:
    synchronised = build_backbone(DETECTION, TINY)
    plain = build_backbone(DETECTION, TINY, norm="BN")
    assert isinstance(synchronised.norm1, torch.nn.SyncBatchNorm)
    assert type(plain.norm1) is torch.nn.BatchNorm2d
    assert list(plain.state_dict()) == list(synchronised.state_dict())


def test_baseline_takes_four_evenly_spaced_blocks() -> None:
    baseline = build_backbone("segmentation.ViTBaseline", TINY_BASELINE)
    assert isinstance(baseline, ViTBaseline)
    assert baseline.out_indexes == (1, 3, 5, 7)
    given = {**TINY_BASELINE, "out_indices": [2, 3, 5, 6]}
    assert build_backbone("detection.ViTBaseline", given).out_indexes == (2, 3, 5, 6)


@pytest.mark.parametrize(
    "cls",
    [
        "ViTAdapter",
        "detection.ResNet",
        "mmpretrain.models.ViTAdapter",
        "mmdet_custom.models.backbones.swin.Swin",
    ],
)
def test_unknown_class(cls: str) -> None:
    with pytest.raises(ValueError, match=f"unknown backbone '{cls}'; known are detection.ViTAdapt"):
        build_backbone(cls, TINY)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"swiglu": True}, "unknown arguments of detection.ViTAdapter: swiglu; known are add_vit_"),
        ({"interaction_indexes": None}, "interaction_indexes is required"),
        ({"drop_rate": 0.1}, "dropout inside the ViT is not supported .* {'drop_rate': 0.1}"),
        ({"pretrained": "deit.pth"}, "pretrained must be None"),
        ({"img_size": 384}, "must agree, got 384 and 224"),
        ({"window_attn": [True] * 3}, "for each of the 4 blocks, got 3 and 4 entries"),
        ({"window_attn": True, "window_size": None}, r"blocks \[0, 1, 2, 3\] have window_attn but"),
        ({"num_heads": 5}, "embed_dim must be a multiple of num_heads 5, got 24"),
    ],
)
def test_arguments_that_do_not_fit(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone("detection.ViTAdapter", {**TINY, **kwargs})
