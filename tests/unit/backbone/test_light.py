"""Extraction without deformable attention."""

from functools import partial

import pytest
import torch
from torch import nn

from vit_adapter.backbone.interaction import Extractor, InteractionSettings
from vit_adapter.backbone.light import LightExtractor
from vit_adapter.layers import PyramidGeometry

GEOMETRY = PyramidGeometry.from_image_size(128, 96)
DIM = 12


def make_settings(**changes: object) -> InteractionSettings:
    arguments = {
        "embed_dim": DIM,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "num_heads": 1,
        "num_points": 1,
        "deform_ratio": 1.0,
        "init_values": 0.0,
        "with_cffn": True,
        "cffn_ratio": 0.25,
        "drop_path": 0.0,
    }
    return InteractionSettings(**{**arguments, **changes})


def interior() -> torch.Tensor:
    """Which prior tokens read no padding: all except those of stride 8 at the image's border."""
    masks = []
    for height, width in GEOMETRY.prior_shapes:
        mask = torch.ones(height, width, dtype=torch.bool)
        if height > GEOMETRY.vit_shape[0]:
            mask[0], mask[-1], mask[:, 0], mask[:, -1] = False, False, False, False
        masks.append(mask.flatten())
    return torch.cat(masks)


def test_equals_an_extractor_with_one_point_at_each_tokens_position() -> None:
    light = LightExtractor(make_settings()).double()
    with torch.no_grad():
        for parameter in light.parameters():
            parameter.normal_(std=0.5)
    deformable = Extractor(make_settings()).double()
    deformable.load_state_dict(light.state_dict(), strict=False)
    attention = deformable.attn
    for offsets in attention.sampling_offsets.parameters():
        nn.init.zeros_(offsets)
    attention.value_proj.load_state_dict(light.proj.state_dict())
    nn.init.eye_(attention.output_proj.weight)

    vit_tokens = torch.randn(2, 48, DIM, dtype=torch.float64)
    prior_tokens = torch.randn(2, 252, DIM, dtype=torch.float64)
    read = light.read(prior_tokens, vit_tokens, GEOMETRY)
    expected = deformable.read(prior_tokens, vit_tokens, GEOMETRY)
    inside = interior()
    assert inside.sum() == 14 * 10 + 8 * 6 + 4 * 3
    torch.testing.assert_close(read[:, inside], expected[:, inside])

    # After reading, both do the same.
    deformable.read = light.read
    outputs = [module(prior_tokens, vit_tokens, GEOMETRY) for module in (light, deformable)]
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients(batch: int) -> None:
    extractor = LightExtractor(make_settings(embed_dim=4, cffn_ratio=0.5)).double()
    geometry = PyramidGeometry.from_image_size(32, 64)
    tokens = [torch.randn(batch, n, 4, dtype=torch.float64, requires_grad=True) for n in (42, 8)]
    parameters = tuple(extractor.parameters())
    assert torch.autograd.gradcheck(
        lambda prior, vit, *_: extractor(prior, vit, geometry), (*tokens, *parameters)
    )


def test_without_ffn() -> None:
    extractor = LightExtractor(make_settings(with_cffn=False))
    assert {name.split(".")[0] for name, _ in extractor.named_parameters()} == {"feat_norm", "proj"}
