"""Segmentors of DINOv2's and DINOv3's authors: every tensor of their files has its place."""

import pytest
import torch
from detectron2.config import instantiate
from dino_keys import DINOV2, HEAD_FILE, VIT, VIT_FILE, WHOLE_L, join, on_meta, small
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.checkpoint.loading import compare_keys
from vit_adapter.checkpoint.original import convert, revert
from vit_adapter.checkpoint.original.sizes import check_sizes, read_sizes
from vit_adapter.config.overrides import apply_overrides

NOT_HERE = {
    f"{VIT}{name}" for name in ("mask_token", "local_cls_norm.weight", "local_cls_norm.bias")
}


def build(config: str, *overrides: str) -> nn.Module:
    cfg = model_zoo.get_config(f"ade20k/mask2former_vit_adapter_{config}")
    apply_overrides(cfg, overrides)
    with torch.device("meta"):
        return instantiate(cfg.model)


def test_dinov2_has_a_place_for_everything() -> None:
    original = on_meta(DINOV2)
    assert len(original) == 1175
    conversion = convert(original)
    assert set(conversion.names) == set(original) and not conversion.dropped
    report = compare_keys(build("giant_dinov2_896_80k"), conversion.state_dict)
    assert report.is_exact, report.describe()
    assert sum(tensor.numel() for tensor in conversion.state_dict.values()) == 1_719_820_961


def test_dinov3_has_a_place_for_everything_that_it_reads() -> None:
    head, vit = on_meta(HEAD_FILE), on_meta(VIT_FILE)
    assert (len(head), len(vit)) == (479, 610)
    original = join(head, vit)
    conversion = convert(original)
    assert set(conversion.dropped) == NOT_HERE
    assert set(conversion.names) == set(original) - NOT_HERE
    report = compare_keys(build("7b_dinov3_896_40k"), conversion.state_dict)
    assert report.is_exact, report.describe()
    # 30 GB of numbers, none of which is copied
    assert all(conversion.state_dict[new] is original[old] for old, new in conversion.names.items())


def test_a_dinov3_with_biases() -> None:
    conversion = convert(on_meta(WHOLE_L))
    assert {name.partition("blocks.")[2].partition(".")[2] for name in conversion.dropped} == {
        "",  # the mask token
        "attn.qkv.bias@2/3",
        "attn.qkv.bias_mask",
    }
    name = "model.backbone.vit.name=vit_large_patch16_dinov3_qkvb"
    report = compare_keys(build("large_dinov3_896_40k", name), conversion.state_dict)
    assert report.is_exact, report.describe()


def test_sizes_of_other_models_are_refused() -> None:
    weights = convert(on_meta(DINOV2)).state_dict
    with pytest.raises(ValueError, match="width of the ViT: 1536 in the checkpoint, 1024 in the"):
        check_sizes(weights, build("large_dinov3_896_40k").state_dict())
    sizes = read_sizes(weights)
    assert sizes["heads of the pixel decoder"] == 32
    assert sizes["heads of the adapter"] == 24


def segmentors() -> dict[str, dict[str, Tensor]]:
    return {
        "DINOv2": small(DINOV2),
        "DINOv3": join(small(HEAD_FILE), small(VIT_FILE)),
        "DINOv3 with biases": small(WHOLE_L),
    }


@pytest.mark.parametrize("name", ["DINOv2", "DINOv3", "DINOv3 with biases"])
def test_there_and_back(name: str) -> None:
    original = segmentors()[name]
    back = revert(convert(original).state_dict)
    assert set(back.state_dict) == set(original) and not back.dropped
    unread = {name for name in original if name in NOT_HERE}
    assert unread <= set(back.made)
    for key in set(original) - unread:
        torch.testing.assert_close(back.state_dict[key], original[key], rtol=0, atol=0)
    for key in unread:
        expected = torch.full_like(original[key], float("norm.weight" in key))
        torch.testing.assert_close(back.state_dict[key], expected)


def test_the_gate_of_dinov2_comes_first() -> None:
    original = small(DINOV2)
    ours = convert(original).state_dict
    block = "backbone.blocks.3.mlp"
    joined = torch.cat([original[f"{block}.w1.bias"], original[f"{block}.w2.bias"]])
    assert torch.equal(ours["backbone.vit.model.blocks.3.mlp.fc1.bias"], joined)


def test_queries_and_values_of_dinov3_have_biases_of_their_own() -> None:
    original = small(WHOLE_L)
    ours = convert(original).state_dict
    query, _, value = original[f"{VIT}blocks.2.attn.qkv.bias"].chunk(3)
    assert torch.equal(ours["backbone.vit.model.blocks.2.attn.q_bias"], query)
    assert torch.equal(ours["backbone.vit.model.blocks.2.attn.v_bias"], value)
