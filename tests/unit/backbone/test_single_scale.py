"""A ViT as a backbone with one output."""

import pytest
import torch

from vit_adapter.backbone import PlainViT, SingleScaleViT, TimmViT

SIZES = {"patch_size": 16, "embed_dim": 48, "depth": 2}


def test_the_map_holds_the_last_patches() -> None:
    torch.manual_seed(0)
    vit = TimmViT(name="vit_tiny_patch16_224", model_args={"num_heads": 3}, **SIZES)
    backbone = SingleScaleViT(vit).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        outputs = backbone(images)
        tokens, grid = vit(images)
    assert list(outputs) == ["res4"] and grid == (4, 6)
    assert vit.num_prefix_tokens == 1
    for row in range(4):
        for column in range(6):
            expected = tokens[:, 1 + 6 * row + column]
            assert outputs["res4"][:, :, row, column].equal(expected)
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == {"res4": 16}


def test_any_image_size_and_all_parameters_are_trained() -> None:
    backbone = SingleScaleViT(PlainViT(img_size=64, num_heads=3, window_sizes=[3, 0], **SIZES))
    output = backbone(torch.randn(1, 3, 50, 70))["res4"]
    assert output.shape == (1, 48, 4, 5)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_other_patch_sizes() -> None:
    vit = PlainViT(img_size=64, num_heads=3, **{**SIZES, "patch_size": 8})
    with pytest.raises(ValueError, match="patch size 16, got 8"):
        SingleScaleViT(vit)
