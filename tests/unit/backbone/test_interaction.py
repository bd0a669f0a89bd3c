"""Injectors, extractors and what runs between them."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.backbone.interaction import (
    ConvFFN,
    Extractor,
    Injector,
    InteractionBlock,
    InteractionSettings,
)
from vit_adapter.layers import PyramidGeometry

GEOMETRY = PyramidGeometry.from_image_size(64, 96)
DIM = 12
SETTINGS = {
    "embed_dim": DIM,
    "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    "num_heads": 2,
    "num_points": 4,
    "deform_ratio": 0.5,
    "init_values": 0.0,
    "with_cffn": True,
    "cffn_ratio": 0.25,
    "drop_path": 0.0,
}


def make_settings(**changes: object) -> InteractionSettings:
    return InteractionSettings(**{**SETTINGS, **changes})


def make_tokens(batch: int = 2, prefix: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, prefix + 24, DIM), torch.randn(batch, 126, DIM)


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)


def test_injector_starts_as_the_identity() -> None:
    injector = Injector(make_settings())
    vit_tokens, prior_tokens = make_tokens()
    assert torch.equal(injector(vit_tokens, prior_tokens, GEOMETRY), vit_tokens)


def test_injector_scales_by_gamma() -> None:
    injector = Injector(make_settings(init_values=1.0))
    vit_tokens, prior_tokens = make_tokens()
    change = injector(vit_tokens, prior_tokens, GEOMETRY) - vit_tokens
    nn.init.constant_(injector.gamma, 0.5)
    halved = injector(vit_tokens, prior_tokens, GEOMETRY) - vit_tokens
    assert change.abs().max() > 0
    torch.testing.assert_close(halved, change / 2, atol=1e-6, rtol=1e-5)


def test_conv_ffn_is_one_convolution_on_every_level() -> None:
    torch.manual_seed(0)
    ffn = ConvFFN(DIM, 5).double()
    tokens = torch.randn(2, 126, DIM, dtype=torch.float64)
    hidden = ffn.fc1(tokens)
    levels = []
    for level, (height, width) in zip(
        hidden.split([96, 24, 6], 1), GEOMETRY.prior_shapes, strict=True
    ):
        features = level.transpose(1, 2).reshape(2, 5, height, width).contiguous()
        levels.append(ffn.dwconv.dwconv(features).flatten(2).transpose(1, 2))
    expected = ffn.fc2(nn.functional.gelu(torch.cat(levels, 1)))
    torch.testing.assert_close(ffn(tokens, GEOMETRY.prior_shapes), expected)


@pytest.mark.parametrize("batch", [1, 2])
def test_conv_ffn_gradients(batch: int) -> None:
    ffn = ConvFFN(3, 2).double()
    tokens = torch.randn(batch, 21, 3, dtype=torch.float64, requires_grad=True)
    shapes = [(4, 4), (2, 2), (1, 1)]
    parameters = tuple(ffn.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: ffn(x, shapes), (tokens, *parameters))


def test_conv_ffn_needs_a_hidden_channel() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0 for embed_dim 12"):
        Extractor(make_settings(cffn_ratio=0.01))


def test_extractor_without_ffn() -> None:
    extractor = Extractor(make_settings(with_cffn=False))
    assert not [name for name, _ in extractor.named_parameters() if "ffn" in name]
    vit_tokens, prior_tokens = make_tokens()
    assert extractor(prior_tokens, vit_tokens, GEOMETRY).shape == prior_tokens.shape


def test_extractor_drops_only_its_ffn_and_per_image() -> None:
    torch.manual_seed(0)
    extractor = Extractor(make_settings(drop_path=0.5)).train()
    vit_tokens, prior_tokens = make_tokens(batch=64)
    extractor_without = Extractor(make_settings(with_cffn=False))
    extractor_without.load_state_dict(extractor.state_dict(), strict=False)
    change = extractor(prior_tokens, vit_tokens, GEOMETRY)
    dropped = (change == extractor_without(prior_tokens, vit_tokens, GEOMETRY)).all(-1)
    assert dropped.all(1).sum() == dropped.any(1).sum()
    assert 0 < dropped.all(1).sum() < 64


def test_only_the_blocks_see_prefix_tokens() -> None:
    torch.manual_seed(0)
    block = InteractionBlock(make_settings())
    randomise(block)
    vit_tokens, prior_tokens = make_tokens(prefix=2)

    def run(tokens: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
        return block(tokens, prior_tokens, GEOMETRY, lambda x: 2 * x, prefix)

    with_prefix, prior_with = run(vit_tokens, 2)
    without_prefix, prior_without = run(vit_tokens[:, 2:], 0)
    assert torch.equal(with_prefix[:, :2], 2 * vit_tokens[:, :2])
    torch.testing.assert_close(with_prefix[:, 2:], without_prefix)
    torch.testing.assert_close(prior_with, prior_without)


def test_extra_extractors_read_the_same_tokens_again() -> None:
    torch.manual_seed(0)
    block = InteractionBlock(make_settings(), num_extra_extractors=2)
    randomise(block)
    vit_tokens, prior_tokens = make_tokens()
    vit_out, prior_out = block(vit_tokens, prior_tokens, GEOMETRY, lambda x: x.sin())
    expected_vit = block.injector(vit_tokens, prior_tokens, GEOMETRY).sin()
    expected = prior_tokens
    for extractor in (block.extractor, *block.extra_extractors):
        expected = extractor(expected, expected_vit, GEOMETRY)
    assert torch.equal(vit_out, expected_vit)
    assert torch.equal(prior_out, expected)


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_activation_checkpointing_changes_no_gradient(drop_path: float) -> None:
    settings = make_settings(drop_path=drop_path, init_values=0.3)
    plain = InteractionBlock(settings, num_extra_extractors=1).train()
    randomise(plain)
    recomputing = InteractionBlock(settings, num_extra_extractors=1, use_checkpoint=True).train()
    recomputing.load_state_dict(plain.state_dict())
    vit_tokens, prior_tokens = make_tokens()
    for block in (plain, recomputing):
        torch.manual_seed(1)
        vit_out, prior_out = block(vit_tokens, prior_tokens, GEOMETRY, lambda x: x.sin())
        (vit_out.square().sum() + prior_out.square().sum()).backward()
    for (name, ours), theirs in zip(
        recomputing.named_parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
