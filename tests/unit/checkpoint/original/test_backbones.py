"""Building our backbones from the original's classes and arguments."""

import pytest
import torch

from vit_adapter import BEiTBaseline, ViTAdapter, ViTBaseline
from vit_adapter.backbone import ViTTrunk
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


def trunk_of(cls: str, kwargs: dict[str, object]) -> ViTTrunk:
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
        ("detection.BEiTAdapter", {}, "last"),
        ("detection.BEiTAdapter", {"version": "old"}, "per_interaction"),
        ("segmentation.BEiTAdapter", {}, "per_interaction"),
        ("detection.UniPerceiverAdapter", {}, "last"),
        ("segmentation.UniPerceiverAdapter", {}, "per_interaction"),
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


def test_recomputation_covers_the_same_parts_as_in_each_tree() -> None:
    for cls, interactions in (
        (DETECTION, False),
        (SEGMENTATION, True),
        ("detection.BEiTAdapter", True),
        ("segmentation.BEiTAdapter", True),
        ("detection.UniPerceiverAdapter", True),
        ("segmentation.UniPerceiverAdapter", False),
    ):
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


def test_beit_has_a_class_token_in_segmentation_only() -> None:
    assert trunk_of("detection.BEiTAdapter", {}).cls_token is None
    assert trunk_of("segmentation.BEiTAdapter", {}).cls_token is not None


def test_beit_tables_are_sized_for_windows_or_the_image() -> None:
    def rows(cls: str, **kwargs: object) -> list[int]:
        blocks = trunk_of(cls, kwargs).blocks
        return [len(block.attn.relative_position_bias_table) for block in blocks]

    segmentation, detection = "segmentation.BEiTAdapter", "detection.BEiTAdapter"
    assert rows(segmentation, img_size=64) == [7 * 7 + 3] * 4
    assert rows(segmentation, img_size=(64, 96)) == [7 * 11 + 3] * 4
    assert rows(detection, img_size=64) == [27 * 27] * 4  # the window, not the image
    windows = {"window_attn": [True, False, True, False], "window_size": [2, 5, 3, 5]}
    assert rows(detection, **windows) == [9, 81, 25, 81]


def test_one_value_starts_beits_layer_scale_and_the_injectors() -> None:
    adapter = build_backbone("segmentation.BEiTAdapter", {**TINY, "init_values": 1e-6})
    for gamma in (adapter.vit.blocks[0].gamma_1, adapter.interactions[0].injector.gamma):
        assert torch.equal(gamma, torch.full((24,), 1e-6))


def test_beit_and_uni_perceiver_always_have_extra_extractors() -> None:
    for cls in ("detection.BEiTAdapter", "segmentation.UniPerceiverAdapter"):
        assert len(build_backbone(cls, TINY).interactions[-1].extra_extractors) == 2
        with pytest.raises(ValueError, match="unknown arguments .* use_extra_extractor"):
            build_backbone(cls, {**TINY, "use_extra_extractor": False})


def test_baseline_of_beit() -> None:
    beit = {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "img_size": 64}
    cls = "mmseg_custom.models.backbones.beit_baseline.BEiTBaseline"
    baseline = build_backbone(cls, {**TINY_BASELINE, "depth": 12, **beit}, norm="BN")
    assert isinstance(baseline, BEiTBaseline)
    assert baseline.out_indexes == (3, 5, 7, 11)
    assert baseline.vit.blocks[0].gamma_1 is None
    with pytest.raises(ValueError, match="only BEiT with separate relative position biases"):
        build_backbone(cls, {**TINY_BASELINE, "depth": 12})  # the original's own defaults


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
    with pytest.raises(ValueError, match=f"unknown backbone '{cls}'; known backbones"):
        build_backbone(cls, TINY)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"swiglu": True}, "unknown arguments of detection.ViTAdapter: swiglu; known arg"),
        ({"interaction_indexes": None}, "interaction_indexes is required"),
        ({"drop_rate": 0.1}, "dropout inside the ViT is not supported .* {'drop_rate': 0.1}"),
        ({"pretrained": "deit.pth"}, "pretrained must be None"),
        ({"img_size": 384}, "must agree, got 384 and 224"),
        ({"window_attn": [True] * 3}, "window_attn .* for each of the 4 blocks, got 3 entries"),
        ({"window_attn": True, "window_size": None}, r"blocks \[0, 1, 2, 3\] have window_attn but"),
        ({"num_heads": 5}, "embed_dim must be a multiple of num_heads 5, got 24"),
    ],
)
def test_arguments_that_do_not_fit(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone("detection.ViTAdapter", {**TINY, **kwargs})


@pytest.mark.parametrize(
    ("cls", "kwargs", "message"),
    [
        ("detection.BEiTAdapter", {"version": "newest"}, r"one of \['new', 'old'\], got 'newest'"),
        ("segmentation.BEiTAdapter", {"version": "old"}, "unknown arguments .*: version"),
        ("segmentation.BEiTAdapter", {"use_shared_rel_pos_bias": True}, "only BEiT with separate"),
        ("segmentation.BEiTAdapter", {"attn_drop_rate": 0.1}, "dropout inside the ViT"),
        ("detection.BEiTAdapter", {"window_size": [2, 3, 2, 2]}, "must have the same window_size"),
        ("detection.UniPerceiverAdapter", {"img_size": 64}, "must agree, got 64 and 224"),
        ("detection.UniPerceiverAdapter", {"qkv_bias": True}, "unknown arguments .*: qkv_bias"),
        ("detection.UniPerceiverAdapter", {"pretrained": "u.pth"}, "pretrained must be None"),
    ],
)
def test_arguments_of_beit_and_uni_perceiver(
    cls: str, kwargs: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(cls, {**TINY, **kwargs})
