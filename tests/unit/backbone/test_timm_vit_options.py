"""Options of timm's ViTs: the final norm and how positions are resized."""

import pytest
import torch
import torch.nn.functional as F

from vit_adapter import TimmViT

HEADS = {"num_heads": 3}


def make_vit(name: str, **options: object) -> TimmViT:
    torch.manual_seed(0)
    vit = TimmViT(name=name, **{"depth": 2, "embed_dim": 48, "model_args": HEADS} | options)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return vit.eval()


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch14_dinov2"])
def test_the_final_norm_is_kept_on_request(name: str) -> None:
    vit = make_vit(name, final_norm=True)
    plain = make_vit(name)
    assert plain.final_norm is None
    only_here = vit.state_dict().keys() - plain.state_dict().keys()
    assert only_here == {"model.norm.weight", "model.norm.bias"}
    plain.load_state_dict({k: v for k, v in vit.state_dict().items() if k not in only_here})
    images = torch.randn(1, 3, 32, 48)
    tokens = vit(images)[0]
    assert torch.equal(tokens, plain(images)[0])  # the trunk does not run the norm
    norm = vit.model.norm
    expected = F.layer_norm(tokens, (48,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(vit.normalise(tokens), expected)


def test_the_final_norm_comes_after_the_blocks_and_is_fixed_until_it_is_used() -> None:
    vit = make_vit("vit_small_patch16_dinov3", final_norm=True)
    layers = vit.parameter_layers()
    assert layers["model.norm.weight"] == layers["model.norm.bias"] == vit.depth + 1
    fixed = {name for name, p in vit.named_parameters() if not p.requires_grad}
    assert fixed == {"model.norm.weight", "model.norm.bias"}


@pytest.mark.parametrize("name", ["samvit_base_patch16", "beit_base_patch16_224"])
def test_a_model_without_a_final_norm(name: str) -> None:
    with pytest.raises(ValueError, match=f"final_norm must be False for '{name}'.*no LayerNorm"):
        make_vit(name, final_norm=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name", ["vit_giant_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "samvit_base_patch16"]
)
@torch.no_grad()
def test_positions_without_antialiasing(name: str, dtype: torch.dtype) -> None:
    options = {"img_size": 160, "patch_size": 16}
    vit = make_vit(name, antialias_positions=False, **options).to(dtype)
    smooth = make_vit(name, **options).to(dtype)
    smooth.load_state_dict(vit.state_dict())
    images = torch.randn(1, 3, 48, 80, dtype=dtype)
    positions = vit.model.pos_embed
    grid = positions[:, -100:].unflatten(1, (10, 10)) if positions.ndim == 3 else positions
    grid = grid.permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(3, 5), mode="bicubic", align_corners=False)
    aliased = F.interpolate(grid, size=(3, 5), mode="bicubic", align_corners=False, antialias=True)
    difference = (resized - aliased).flatten(2).transpose(1, 2)
    tokens, smoothed = vit.embed(images)[0], smooth.embed(images)[0]
    prefix = vit.num_prefix_tokens
    assert torch.equal(tokens[:, :prefix], smoothed[:, :prefix])
    tolerance = 1e-5  # timm resizes in float32
    torch.testing.assert_close((tokens - smoothed)[:, prefix:], difference, rtol=0, atol=tolerance)
    at_home = torch.randn(1, 3, 160, 160, dtype=dtype)
    assert torch.equal(vit.embed(at_home)[0], smooth.embed(at_home)[0])
