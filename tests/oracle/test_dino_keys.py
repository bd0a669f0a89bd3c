"""Segmentors of DINOv2's and DINOv3's authors: every tensor of their files has its place."""

import pytest
import torch
from dino_keys import DINOV2, HEAD_FILE, VIT, VIT_FILE, WHOLE_L, join, on_meta, small
from torch import Tensor, nn

from vit_adapter import TimmViT
from vit_adapter.checkpoint.original import Conversion, convert, revert

NOT_HERE = {
    f"{VIT}{name}" for name in ("mask_token", "local_cls_norm.weight", "local_cls_norm.bias")
}


def trunk_part(conversion: Conversion) -> dict[str, Tensor]:
    prefix = "backbone.vit."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in conversion.state_dict.items()
        if name.startswith(prefix)
    }


def shapes(state_dict: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def timm_vit(**options: object) -> nn.Module:
    with torch.device("meta"):
        return TimmViT(**options)


def test_dinov2_has_a_place_for_everything() -> None:
    original = on_meta(DINOV2)
    assert len(original) == 1175
    conversion = convert(original)
    assert set(conversion.names) == set(original) and not conversion.dropped
    trunk = timm_vit(name="vit_giant_patch14_dinov2", patch_size=14)
    assert shapes(trunk_part(conversion)) == shapes(trunk.state_dict())
    assert sum(tensor.numel() for tensor in conversion.state_dict.values()) == 1_719_820_961


def test_dinov3_has_a_place_for_everything_that_it_reads() -> None:
    head, vit = on_meta(HEAD_FILE), on_meta(VIT_FILE)
    assert (len(head), len(vit)) == (479, 610)
    original = join(head, vit)
    conversion = convert(original)
    assert set(conversion.dropped) == NOT_HERE
    assert set(conversion.names) == set(original) - NOT_HERE
    expected = shapes(timm_vit(name="vit_7b_patch16_dinov3").state_dict())
    expected |= {"model.norm.weight": (4096,), "model.norm.bias": (4096,)}
    expected |= {"model.rope.periods": (32,)}
    assert shapes(trunk_part(conversion)) == expected
    # 30 GB of numbers, none of which is copied
    assert all(conversion.state_dict[new] is original[old] for old, new in conversion.names.items())


def test_a_dinov3_with_biases() -> None:
    conversion = convert(on_meta(WHOLE_L))
    assert {name.partition("blocks.")[2].partition(".")[2] for name in conversion.dropped} == {
        "",  # the mask token
        "attn.qkv.bias@2/3",
        "attn.qkv.bias_mask",
    }
    expected = shapes(timm_vit(name="vit_large_patch16_dinov3_qkvb").state_dict())
    expected |= {"model.norm.weight": (1024,), "model.norm.bias": (1024,)}
    expected |= {"model.rope.periods": (16,)}
    assert shapes(trunk_part(conversion)) == expected


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
