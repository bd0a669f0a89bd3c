"""The plain-BEiT backbone."""

import pytest
import torch
from torch import nn

from vit_adapter import BEiT, BEiTBaseline


def make_baseline(**changes: object) -> BEiTBaseline:
    vit = BEiT(img_size=64, embed_dim=12, depth=4, num_heads=2, init_values=0.1)
    return BEiTBaseline(vit, **{"out_indexes": [0, 1, 2, 3], "norm": "BN", **changes})


@torch.no_grad()
def test_outputs_are_resampled_tokens_without_the_class_token() -> None:
    baseline = make_baseline(out_indexes=[0, 1, 1, 3]).eval()
    images = torch.randn(2, 3, 64, 96)
    outputs = baseline(images)
    tokens, grid = baseline.vit.embed(images)
    maps = []
    for index in range(4):
        tokens = baseline.vit.forward_blocks(tokens, grid, index, index + 1)
        maps.append(tokens[:, 1:].transpose(1, 2).reshape(2, 12, *grid))
    up, norm, gelu, up_again = baseline.fpn1
    expected = {
        "res2": up_again(gelu(norm(up(maps[0])))),
        "res3": baseline.fpn2[0](maps[1]),
        "res4": maps[1],
        "res5": nn.functional.max_pool2d(maps[3], 2),
    }
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value, atol=1e-5, rtol=1e-5)


def test_names_are_the_originals() -> None:
    names = {name for name in make_baseline().state_dict() if not name.startswith("vit.")}
    batch_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert names == {
        *(f"fpn1.{i}.{leaf}" for i in (0, 3) for leaf in ("weight", "bias")),
        *(f"fpn1.1.{leaf}" for leaf in batch_norm),
        "fpn2.0.weight",
        "fpn2.0.bias",
    }


def test_parts_that_no_output_needs_are_frozen() -> None:
    baseline = make_baseline(out_features=["res3", "res5"])
    frozen = {name for name, p in baseline.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("fpn1.") for name in frozen)


def test_out_indexes_ascend() -> None:
    with pytest.raises(ValueError, match=r"ascending block numbers from 0 to 3, got \[3,"):
        make_baseline(out_indexes=[3, 2, 1, 0])
