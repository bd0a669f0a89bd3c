"""The plain-ViT and ViTDet baselines."""

import pytest
import torch
from torch import nn

from vit_adapter import PlainViT, ViTBaseline

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
DIM = 32


def make_baseline(**changes: object) -> ViTBaseline:
    vit = PlainViT(img_size=64, embed_dim=DIM, depth=4, num_heads=2)
    return ViTBaseline(**{"vit": vit, "out_indexes": [0, 1, 2, 3], **changes})


@pytest.mark.parametrize("size", [(64, 96), (33, 65), (1, 1)])
def test_any_image_size(size: tuple[int, int]) -> None:
    baseline = make_baseline()
    outputs = baseline(torch.randn(2, 3, *size))
    assert list(outputs) == list(baseline.output_shape()) == list(STRIDES)
    for name, stride in STRIDES.items():
        expected = (2, DIM, -(-size[0] // stride), -(-size[1] // stride))
        assert tuple(outputs[name].shape) == expected
        shape = baseline.output_shape()[name]
        assert (shape.channels, shape.stride) == (DIM, stride)
    assert baseline.size_divisibility == baseline.padding_constraints["size_divisibility"] == 32


def test_each_output_is_taken_after_its_block() -> None:
    baseline = make_baseline().eval()
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        outputs = baseline(images)
        tokens, grid = baseline.vit.embed(images)
        tokens = baseline.vit.forward_blocks(tokens, grid, 0, 3)
    expected = nn.functional.layer_norm(tokens, (DIM,), eps=1e-6).transpose(1, 2)
    torch.testing.assert_close(outputs["res4"], expected.reshape(1, DIM, 2, 4))


def test_one_block_can_serve_all_outputs() -> None:
    baseline = make_baseline(out_indexes=[3])
    assert baseline.out_indexes == (3, 3, 3, 3)
    assert baseline(torch.randn(1, 3, 32, 64))["res2"].shape == (1, DIM, 8, 16)


@pytest.mark.parametrize("out_features", [tuple(STRIDES), ("res3", "res4", "res5")])
def test_every_trainable_parameter_gets_a_gradient(out_features: tuple[str, ...]) -> None:
    baseline = make_baseline(out_features=out_features)
    sum(
        (v * v.detach().cos()).sum() for v in baseline(torch.randn(2, 3, 64, 64)).values()
    ).backward()
    trainable = [(n, p) for n, p in baseline.named_parameters() if p.requires_grad]
    assert [n for n, p in trainable if p.grad is None] == []
    assert any(n.startswith("up1") for n, _ in trainable) == ("res2" in out_features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"out_indexes": [0, 1, 2]},
            r"one or 4 ascending block numbers from 0 to 3, got \[0, 1, 2",
        ),
        ({"out_indexes": [0, 1, 2, 4]}, r"got \[0, 1, 2, 4\]"),
        ({"out_indexes": [-1, 1, 2, 3]}, r"got \[-1, 1, 2, 3\]"),
        ({"out_indexes": [3, 2, 1, 0]}, r"got \[3, 2, 1, 0\]"),
        ({"vit": PlainViT(embed_dim=24, depth=4, num_heads=2)}, "multiple of 32 .*, got 24"),
        ({"out_features": ["p2"]}, r"got \['p2'\]"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_baseline(**changes)
