"""Renaming the original's weights to ours and back."""

import re

import pytest
import torch
from torch import Tensor

from vit_adapter.checkpoint.original import (
    convert,
    convert_state_dict,
    revert,
    revert_state_dict,
    take_moving_averages,
)
from vit_adapter.checkpoint.original.layouts.table import UNSUPPORTED, Unsupported

TRUNK = (
    "pos_embed",
    "cls_token",
    "patch_embed.proj.weight",
    "blocks.0.norm1.weight",
    "layers.0.self_attn.in_proj.weight",
    "visual_embed.patch_embed.proj.bias",
)
ADAPTER = (
    "norm1.weight",
    "spm.stem.0.weight",
    "level_embed",
    "up.bias",
    "interactions.3.extra_extractors.1.ffn.fc1.weight",
)


def tensors(*names: str) -> dict[str, Tensor]:
    return {name: torch.randn(2) for name in names}


def test_the_trunk_moves_into_the_vit() -> None:
    original = tensors(*TRUNK, *ADAPTER)
    converted = convert_state_dict(original)
    assert list(converted) == [*(f"vit.{name}" for name in TRUNK), *ADAPTER]
    for ours, theirs in zip(converted.values(), original.values(), strict=True):
        assert ours is theirs


def test_a_detectors_backbone_goes_where_detectron2_expects_it() -> None:
    names = (*TRUNK, *ADAPTER)
    converted = convert_state_dict(tensors(*(f"backbone.{name}" for name in names)))
    bare = convert_state_dict(tensors(*names))
    assert list(converted) == [f"backbone.bottom_up.{name}" for name in bare]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("neck.lateral_convs.0.conv.weight", "backbone.fpn_lateral2.weight"),
        ("neck.fpn_convs.3.conv.bias", "backbone.fpn_output5.bias"),
        ("neck.fpn_convs.3.bn.running_var", "backbone.fpn_output5.norm.running_var"),
        ("neck.convs.3.conv.weight", "backbone.convs.3.weight"),
        ("rpn_head.rpn_conv.weight", "proposal_generator.rpn_head.conv.weight"),
        ("rpn_head.rpn_conv.1.conv.bias", "proposal_generator.rpn_head.conv.conv1.bias"),
        ("rpn_head.rpn_cls.bias", "proposal_generator.rpn_head.objectness_logits.bias"),
        ("rpn_head.rpn_reg.bias", "proposal_generator.rpn_head.anchor_deltas.bias"),
        ("roi_head.bbox_head.shared_convs.3.conv.weight", "roi_heads.box_head.conv4.weight"),
        ("roi_head.bbox_head.shared_convs.0.bn.bias", "roi_heads.box_head.conv1.norm.bias"),
        ("roi_head.bbox_head.shared_fcs.1.bias", "roi_heads.box_head.fc2.bias"),
        ("roi_head.bbox_head.fc_cls.weight", "roi_heads.box_predictor.cls_score.weight"),
        ("roi_head.bbox_head.fc_reg.weight", "roi_heads.box_predictor.bbox_pred.weight"),
        ("roi_head.mask_head.convs.0.conv.weight", "roi_heads.mask_head.mask_fcn1.weight"),
        ("roi_head.mask_head.convs.3.bn.weight", "roi_heads.mask_head.mask_fcn4.norm.weight"),
        ("roi_head.mask_head.upsample.bias", "roi_heads.mask_head.deconv.bias"),
        ("roi_head.mask_head.conv_logits.bias", "roi_heads.mask_head.predictor.bias"),
    ],
)
def test_names_of_mask_rcnn(theirs: str, ours: str) -> None:
    lateral = tensors(*(f"neck.lateral_convs.{i}.conv.bias" for i in range(4)))
    original = {"backbone.pos_embed": torch.zeros(1), **lateral, theirs: torch.randn(3)}
    conversion = convert(original)
    assert conversion.names[theirs] == ours
    assert conversion.state_dict[ours] is original[theirs]
    assert revert_state_dict(conversion.state_dict) == original


def test_a_pyramid_without_stride_four_keeps_its_strides() -> None:
    original = tensors(
        "backbone.pos_embed",
        *(
            f"neck.{part}.{i}.conv.bias"
            for part in ("lateral_convs", "fpn_convs")
            for i in range(3)
        ),
    )
    conversion = convert(original)
    assert list(conversion.state_dict)[1:] == [
        f"backbone.fpn_{part}{i}.bias" for part in ("lateral", "output") for i in (3, 4, 5)
    ]
    assert revert_state_dict(conversion.state_dict) == original


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("decode_head.psp_modules.3.1.conv.weight", "sem_seg_head.main.psp_modules.3.1.weight"),
        (
            "decode_head.bottleneck.bn.running_mean",
            "sem_seg_head.main.bottleneck.norm.running_mean",
        ),
        ("decode_head.conv_seg.bias", "sem_seg_head.main.conv_seg.bias"),
        ("auxiliary_head.convs.0.bn.weight", "sem_seg_head.auxiliary.convs.0.norm.weight"),
        ("auxiliary_head.conv_seg.weight", "sem_seg_head.auxiliary.conv_seg.weight"),
        ("backbone.cls_token", "backbone.vit.cls_token"),
    ],
)
def test_names_of_upernet(theirs: str, ours: str) -> None:
    heads = tensors("decode_head.fpn_convs.0.conv.weight", "auxiliary_head.convs.0.conv.weight")
    original = {"backbone.level_embed": torch.zeros(1), **heads, theirs: torch.randn(3)}
    conversion = convert(original)
    assert conversion.names[theirs] == ours
    assert revert_state_dict(conversion.state_dict) == original


def test_upernet_without_its_auxiliary_head() -> None:
    original = tensors("backbone.level_embed", "decode_head.conv_seg.bias")
    converted = convert_state_dict(original)
    assert list(converted) == ["backbone.level_embed", "sem_seg_head.conv_seg.bias"]
    assert revert_state_dict(converted) == original


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("pixel_decoder.input_convs.0.gn.bias", "pixel_decoder.input_convs.0.gn.bias"),
        ("pixel_decoder.level_encoding.weight", "pixel_decoder.level_encoding.weight"),
        ("pixel_decoder.encoder.layers.5.attentions.0.value_proj.bias",
         "pixel_decoder.encoder.layers.5.self_attn.value_proj.bias"),
        ("pixel_decoder.encoder.layers.0.norms.1.bias",
         "pixel_decoder.encoder.layers.0.norm2.bias"),
        ("transformer_decoder.layers.8.attentions.0.attn.in_proj_bias",
         "transformer_decoder.layers.8.cross_attn.in_proj_bias"),
        ("transformer_decoder.layers.8.attentions.1.attn.out_proj.bias",
         "transformer_decoder.layers.8.self_attn.out_proj.bias"),
        ("transformer_decoder.layers.0.ffns.0.layers.0.0.weight",
         "transformer_decoder.layers.0.ffn.linear1.weight"),
        ("transformer_decoder.layers.0.ffns.0.layers.1.weight",
         "transformer_decoder.layers.0.ffn.linear2.weight"),
        ("transformer_decoder.post_norm.bias", "transformer_decoder.post_norm.bias"),
        ("query_feat.weight", "transformer_decoder.query_feat.weight"),
        ("query_embed.weight", "transformer_decoder.query_embed.weight"),
        ("mask_embed.4.bias", "transformer_decoder.mask_embed.4.bias"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("head", "tree"), [("decode_head", None), ("panoptic_head", "detection")])
def test_names_of_mask2former(theirs: str, ours: str, head: str, tree: str | None) -> None:
    original = tensors("backbone.level_embed", f"{head}.{theirs}")
    converted = convert_state_dict(original)
    assert list(converted) == ["backbone.level_embed", f"head.{ours}"]
    assert revert_state_dict(converted, tree=tree) == original


@pytest.mark.parametrize(("rows", "tokens"), [(729, 14 * 14), (12321, 56 * 56)])
def test_indexes_of_bias_tables_are_dropped_and_made_again(rows: int, tokens: int) -> None:
    attention = "backbone.blocks.0.attn"
    original = {
        f"{attention}.relative_position_bias_table": torch.empty(rows, 16, device="meta"),
        f"{attention}.relative_position_index": torch.empty(tokens, tokens, device="meta"),
        f"{attention}.q_bias": torch.empty(3, device="meta"),
    }
    conversion = convert(original)
    assert list(conversion.dropped) == [f"{attention}.relative_position_index"]
    back = revert_state_dict(conversion.state_dict)
    assert list(back) == list(original)
    assert back[f"{attention}.relative_position_index"].shape == (tokens, tokens)


def test_a_window_that_is_not_square_gets_no_index() -> None:
    table = {"vit.blocks.0.attn.relative_position_bias_table": torch.zeros(7 * 11, 1)}
    assert list(revert_state_dict(table)) == ["blocks.0.attn.relative_position_bias_table"]


def test_adapters_without_injectors_cannot_be_reverted() -> None:
    frozen = tensors("interactions.0.extractor.query_norm.weight")
    with pytest.raises(ValueError, match="no adapter without injectors.*mode='full'"):
        revert(frozen)


def test_moving_averages_of_the_training_are_dropped() -> None:
    original = tensors("backbone.pos_embed", "ema_backbone_pos_embed")
    conversion = convert(original)
    assert conversion.names == {"backbone.pos_embed": "backbone.bottom_up.vit.pos_embed"}
    assert list(conversion.dropped) == ["ema_backbone_pos_embed"]
    assert "moving average" in conversion.dropped["ema_backbone_pos_embed"]


@pytest.mark.parametrize("entry", UNSUPPORTED, ids=lambda entry: entry.example)
def test_parts_without_a_counterpart_are_named(entry: Unsupported) -> None:
    names = entry.example, f"{entry.example}_too"
    message = f"not supported by this project: {entry.part} (2 keys): {', '.join(names)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        convert(tensors("backbone.pos_embed", "neck.lateral_convs.0.conv.bias", *names))


def test_every_unknown_name_is_listed() -> None:
    with pytest.raises(ValueError, match="not part of any .*2 keys.: head.weight, norm.bias"):
        convert(tensors("pos_embed", "head.weight", "norm.bias"))
    with pytest.raises(ValueError, match="not part of any .*1 key.: blocks.0.norm1.weight"):
        convert(tensors("backbone.pos_embed", "blocks.0.norm1.weight"))
    with pytest.raises(ValueError, match="no counterpart .*1 key.: backbone.net.pos_embed"):
        revert(tensors("backbone.bottom_up.vit.pos_embed", "backbone.net.pos_embed"))
    with pytest.raises(ValueError, match=r"\): neck.bottleneck.bias\nnot part of .*: x.weight"):
        convert(tensors("backbone.pos_embed", "neck.bottleneck.bias", "x.weight"))


@pytest.mark.parametrize(
    "theirs",
    [
        ("blocks.0.norm1.weight",),
        ("backbone.layers.0.self_attn.in_proj.weight", "neck.lateral_convs.0.conv.bias"),
        ("backbone.blocks.0.norm1.weight", "decode_head.conv_seg.bias"),
        ("backbone.blocks.0.mlp.w1.weight", "backbone.blocks.0.mlp.w2.weight"),  # DINOv2
    ],
)
def test_our_names_need_no_conversion(theirs: tuple[str, ...]) -> None:
    converted = convert_state_dict(tensors(*theirs))
    message = "look like those of this project, such as '[^']*vit[^']*', .* needs no conversion"
    with pytest.raises(ValueError, match=message):
        convert(converted)


def test_two_names_must_not_become_one() -> None:
    names = ("roi_head.bbox_head.shared_fcs.1.bias", "roi_head.bbox_head.shared_fcs.01.bias")
    with pytest.raises(ValueError, match="shared_fcs.01.bias' and another key .* both"):
        convert(tensors("backbone.pos_embed", *names))


@pytest.mark.parametrize("direction", [convert_state_dict, revert_state_dict])
def test_values_must_be_tensors(direction: type) -> None:
    with pytest.raises(ValueError, match="a tensor for every key, got dict for 'state_dict'"):
        direction({"state_dict": {}})


def test_moving_averages_can_take_the_place_of_the_weights() -> None:
    weight, average, counter = torch.zeros(2), torch.ones(2), torch.tensor(3)
    original = {
        "backbone.pos_embed": weight,
        "backbone.norm1.num_batches_tracked": counter,
        "ema_backbone_pos_embed": average,
    }
    taken = take_moving_averages(original)
    assert list(taken) == list(original)[:2]
    assert taken["backbone.pos_embed"] is average
    assert taken["backbone.norm1.num_batches_tracked"] is counter
    original["backbone.level_embed"] = weight
    message = r"1 of 3 tensors have no moving average \(ema_\*\), such as 'backbone.level_embed'"
    with pytest.raises(ValueError, match=message):
        take_moving_averages(original)
