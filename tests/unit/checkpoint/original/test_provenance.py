"""What a checkpoint says about its tree, its fusion mode and its pixel statistics."""

import os
import sys
from pathlib import Path

import pytest

from vit_adapter.checkpoint.original.config_text import PixelStatistics, read_stored_config
from vit_adapter.checkpoint.original.provenance import (
    IMAGENET,
    METADATA_KEY,
    Provenance,
    read_provenance,
    stored_provenance,
)

HALF = PixelStatistics((127.5,) * 3, (127.5,) * 3)
ADAPTER = tuple(f"backbone.interactions.{i}.injector.gamma" for i in range(4))
DETECTOR = (*ADAPTER, "neck.fpn_convs.0.conv.bias", "rpn_head.rpn_cls.bias")
SEGMENTOR = (*ADAPTER, "decode_head.conv_seg.bias")

# As written by the original: values are resolved, and data sets hold their own pipelines.
CONFIG = """
model = dict(
    type='MaskRCNN',
    backbone=dict(type='BEiTAdapter', depth=24, {backbone}
                  window_attn=[True, False], init_values=1e-06))
img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0], to_rgb=True)
data = dict(
    samples_per_gpu=2,
    train=dict(type='CocoDataset', pipeline=[
        dict(type='RandomFlip', flip_ratio=0.5),
        dict(type='Normalize', mean=[{train}, {train}, {train}], std=[127.5, 127.5, 127.5],
             to_rgb=True)]),
    test=dict(type='CocoDataset', pipeline=[
        dict(type='MultiScaleFlipAug', img_scale=(1333, 800), transforms=[
            dict(type='Normalize', mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5],
                 to_rgb={rgb})])]))
lr_config = dict(policy='step', step=[27, 33])
"""


def with_config(backbone: str = "", train: str = "127.5", rgb: str = "True") -> dict[str, object]:
    text = CONFIG.format(backbone=backbone, train=train, rgb=rgb)
    return {"state_dict": {}, "meta": {"config": text, "CLASSES": ("a", "b")}}


def test_pixel_statistics_are_those_for_evaluation() -> None:
    provenance = read_provenance(with_config(), DETECTOR)
    assert provenance == Provenance("detection", "last", HALF, True)
    trap = read_provenance(with_config(train="123.0"), DETECTOR)
    assert trap.pixels == HALF
    assert "different pixel statistics than evaluation: RGB, mean [123.0" in trap.notes[0]
    assert read_provenance(with_config(rgb="False"), DETECTOR).pixels.channels == "BGR"


@pytest.mark.parametrize(
    "checkpoint", [{}, {"meta": {}}, {"meta": None}, {"meta": {"config": "("}}]
)
def test_unknown_pixel_statistics_are_those_of_imagenet(checkpoint: dict[str, object]) -> None:
    provenance = read_provenance(checkpoint, DETECTOR)
    assert provenance.pixels == IMAGENET
    assert not provenance.pixels_are_known
    assert "ImageNet statistics are assumed" in provenance.notes[0]
    assert "AugReg" in provenance.notes[0]


@pytest.mark.parametrize(
    ("names", "backbone", "tree", "fusion"),
    [
        (DETECTOR, "", "detection", "last"),
        (DETECTOR, "version='old',", "detection", "per_interaction"),
        (DETECTOR, "add_vit_feature=False,", "detection", "none"),
        (SEGMENTOR, "", "segmentation", "per_interaction"),
        ((ADAPTER[0], SEGMENTOR[-1]), "", "segmentation", "none"),  # one interaction
        (("backbone.up1.bias", "roi_head.bbox_head.fc_cls.bias"), "", "detection", None),
        ((*ADAPTER, "bbox_head.gfl_cls.bias"), "", "detection", "last"),
        ((*ADAPTER, "panoptic_head.cls_embed.bias"), "", "detection", "last"),
    ],
)
def test_the_tree_decides_the_fusion(
    names: tuple[str, ...], backbone: str, tree: str, fusion: str | None
) -> None:
    provenance = read_provenance(with_config(backbone), names)
    assert (provenance.tree, provenance.vit_feature_fusion) == (tree, fusion)


def test_a_backbone_alone_needs_its_tree() -> None:
    with pytest.raises(ValueError, match="--tree detection or --tree segmentation"):
        read_provenance({}, ADAPTER)
    assert read_provenance({}, ADAPTER, "detection").vit_feature_fusion == "last"
    assert read_provenance({}, ADAPTER, "segmentation").vit_feature_fusion == "per_interaction"
    with pytest.raises(ValueError, match="from the detection tree, not segmentation; omit"):
        read_provenance({}, DETECTOR, "segmentation")


@pytest.mark.parametrize("place", ["ours", "theirs"])
def test_stored_provenance_is_read_back(place: str) -> None:
    provenance = Provenance("detection", "per_interaction", HALF, True)
    left = {METADATA_KEY: provenance.as_metadata()}
    checkpoint = left if place == "ours" else {"state_dict": {}, "meta": left}
    assert stored_provenance(checkpoint) == provenance
    assert read_provenance(checkpoint, ADAPTER) == provenance
    del left[METADATA_KEY]["tree"]
    with pytest.raises(ValueError, match="under 'vit_adapter' are incomplete .*'tree'"):
        stored_provenance(checkpoint)


def test_a_config_is_read_and_not_run(tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    text = f"""
import os
open({os.fspath(traces)!r}, 'w')
data = dict(test=open({os.fspath(traces)!r}, 'w'), train=[x for x in dict.__subclasses__()])
model = dict(backbone=dict(depth=__import__('os').getpid(), embed_dim=-3, **dict(a=1)))
"""
    stored = read_stored_config({"meta": {"config": text}})
    assert not traces.exists()
    assert stored is not None and stored.test is None
    assert stored.backbone == {"depth": {}, "embed_dim": -3}
    nested = "data = " + "[" * sys.getrecursionlimit() + "]" * sys.getrecursionlimit()
    assert read_stored_config({"meta": {"config": nested}}) is None
