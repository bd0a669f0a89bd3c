"""Uni-Perceiver as a trunk, with PyTorch's own transformer layer as the oracle."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from vit_adapter import UniPerceiver, ViTAdapter

TINY = {"img_size": 64, "embed_dim": 12, "depth": 3, "num_heads": 2}


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module


def make_vit(**changes: object) -> UniPerceiver:
    return randomise(UniPerceiver(**{**TINY, **changes}))


def as_torch_layer(layer: nn.Module) -> nn.Module:
    """PyTorch's pre-norm layer, with the layer scales folded into the last linear maps."""
    dim, hidden = layer.linear1.in_features, layer.linear1.out_features
    oracle = nn.TransformerEncoderLayer(
        dim,
        layer.self_attn.num_heads,
        hidden,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=1e-5,
        batch_first=True,
        norm_first=True,
        dtype=torch.float64,
    )
    ours = dict(layer.named_parameters())
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            value = ours[name.replace("in_proj_", "in_proj.")]
            if "out_proj" in name or "linear2" in name:
                gamma = layer.gamma_1 if "out_proj" in name else layer.gamma_2
                value = gamma[:, None] * value if value.ndim == 2 else gamma * value
            parameter.copy_(value)
    return oracle


def test_layers_equal_torchs() -> None:
    vit = make_vit().double()
    tokens = torch.randn(2, 15, 12, dtype=torch.float64)
    expected = tokens
    for layer in vit.layers:
        expected = as_torch_layer(layer)(expected)
    torch.testing.assert_close(vit.forward_blocks(tokens, (3, 5), 0, 3), expected)


@pytest.mark.parametrize("window_size", [1, 2, 3, 7])
def test_windows_are_padded_before_the_projection(window_size: int) -> None:
    """Queries, keys and values of padded tokens are the biases, and are not masked."""
    attn = make_vit(window_sizes=[window_size] * 3).double().layers[0].self_attn
    tokens = torch.randn(2, 4 * 6, 12, dtype=torch.float64)
    oracle = nn.MultiheadAttention(12, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            parameter.copy_(attn.get_parameter(name.replace("in_proj_", "in_proj.")))
        bottom, right = -4 % window_size, -6 % window_size
        padded = F.pad(tokens.view(2, 4, 6, 12), (0, 0, 0, right, 0, bottom))
        expected = torch.zeros_like(padded)
        for top in range(0, padded.shape[1], window_size):
            for left in range(0, padded.shape[2], window_size):
                window = (
                    slice(None),
                    slice(top, top + window_size),
                    slice(left, left + window_size),
                )
                x = padded[window].flatten(1, 2)
                mixed = oracle(x, x, x, need_weights=False)[0]
                expected[window] = mixed.view(padded[window].shape)
        torch.testing.assert_close(attn(tokens, (4, 6)), expected[:, :4, :6].flatten(1, 2))


def embed_by_hand(vit: UniPerceiver, images: Tensor, places: Tensor) -> Tensor:
    embedding = vit.visual_embed.patch_embed
    patches = embedding.proj(images).flatten(2).transpose(1, 2)
    moment = embedding.temporal_pos_embed(torch.tensor([0]))
    norm = vit.visual_embed.embeddings_norm
    return F.layer_norm(patches + places + moment, (12,), norm.weight, norm.bias, 1e-5)


def test_embedding_adds_space_and_first_time_then_normalises() -> None:
    vit = make_vit().double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    tokens, grid = vit.embed(images)
    assert grid == (4, 4)
    places = vit.visual_embed.patch_embed.spatial_pos_embed(torch.arange(16))
    torch.testing.assert_close(tokens, embed_by_hand(vit, images, places))


def test_positions_in_space_are_resized_to_the_image() -> None:
    vit = make_vit().double()
    images = torch.randn(1, 3, 32, 80, dtype=torch.float64)
    places = vit.visual_embed.patch_embed.spatial_pos_embed.weight.view(1, 4, 4, 12)
    places = F.interpolate(places.permute(0, 3, 1, 2), size=(2, 5), mode="bicubic")
    expected = embed_by_hand(vit, images, places.flatten(2).transpose(1, 2))
    torch.testing.assert_close(vit.embed(images)[0], expected)


def test_layer_norms_have_torchs_epsilon_also_in_the_adapter() -> None:
    adapter = ViTAdapter(
        UniPerceiver(**TINY), interaction_indexes=[(0, 2)], conv_inplane=4, deform_num_heads=2
    )
    norms = [module for module in adapter.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) > 10
    assert {norm.eps for norm in norms} == {1e-5}


def test_untrained_layers_change_nothing() -> None:
    vit = UniPerceiver(**TINY)
    tokens, grid = vit.embed(torch.randn(1, 3, 64, 64))
    assert torch.equal(vit.forward_blocks(tokens, grid, 0, 3), tokens)


def test_recomputation_changes_no_gradient() -> None:
    vit, recomputing = make_vit(), make_vit(use_checkpoint=True)
    recomputing.load_state_dict(vit.state_dict())
    images = torch.randn(1, 3, 48, 64)
    for model in (vit, recomputing):
        model(images)[0].square().sum().backward()
    for (name, one), two in zip(vit.named_parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=lambda m, n=name: f"{n}: {m}")


def test_drop_path_rises_linearly() -> None:
    layers = UniPerceiver(**{**TINY, "depth": 5}, drop_path_rate=0.4).layers
    rates = [e.drop_path.drop_prob if isinstance(e.drop_path, DropPath) else 0 for e in layers]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_sizes": [2]}, "one integer >= 0 for each of the 3 blocks"),
        ({"img_size": 70}, "multiple of patch_size 16, got 70"),
        ({"embed_dim": 13}, "multiple of num_heads 2, got 13"),
        ({"depth": 0}, "at least 1"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UniPerceiver(**{**TINY, **changes})
