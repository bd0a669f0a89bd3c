"""The plain ViT as a trunk."""

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vit_adapter import PlainViT

TINY = {"img_size": 64, "embed_dim": 12, "depth": 3, "num_heads": 2}


def make_vit(**changes: object) -> PlainViT:
    vit = PlainViT(**{**TINY, **changes})
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.normal_(std=0.3)
    return vit


def from_timm(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename to our names, and add the class token's row to the position embedding."""
    renamed = {
        key.replace("ls1.gamma", "gamma1").replace("ls2.gamma", "gamma2"): value
        for key, value in state_dict.items()
        if not key.startswith(("norm.", "fc_norm.", "head."))
    }
    positions = renamed["pos_embed"]
    renamed["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)
    return renamed


@pytest.mark.parametrize(
    ("name", "sizes", "layer_scale"),
    [
        ("vit_tiny_patch16_224", {"embed_dim": 192, "num_heads": 3}, False),
        ("deit_small_patch16_224", {"embed_dim": 384, "num_heads": 6}, False),
        ("deit3_small_patch16_224", {"embed_dim": 384, "num_heads": 6}, True),
        ("vit_base_patch16_384", {"embed_dim": 768, "num_heads": 12}, False),
    ],
)
def test_equals_timm(name: str, sizes: dict[str, int], layer_scale: bool) -> None:
    torch.manual_seed(0)
    sizes = {**sizes, "img_size": 64, "depth": 2}
    options = {"class_token": False, "global_pool": "avg", "num_classes": 0}
    reference = timm.create_model(name, **sizes, **options).double().eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # timm's zero biases would hide mistakes
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    vit = PlainViT(layer_scale=layer_scale, **sizes).double().eval()
    vit.load_state_dict(from_timm(reference.state_dict()))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, norm=False, output_fmt="NLC")[1][-1]
        tokens, _ = vit(images)
    torch.testing.assert_close(tokens, expected, atol=1e-9, rtol=1e-9)


def slow_windowed_attention(attn: nn.Module, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Window by window, head by head; the padding is zero after the projection and not masked."""
    window, heads = attn.window_size, attn.num_heads
    batch, _, dim = tokens.shape
    qkv = attn.qkv(tokens).view(batch, *grid, 3, heads, dim // heads)
    output = torch.zeros(batch, *grid, dim, dtype=tokens.dtype)
    for b in range(batch):
        for top in range(0, grid[0], window):
            for left in range(0, grid[1], window):
                inside = qkv[b, top : top + window, left : left + window]
                height, width = inside.shape[:2]
                padded = torch.zeros(window, window, *inside.shape[2:], dtype=tokens.dtype)
                padded[:height, :width] = inside
                for m in range(heads):
                    query, key, value = padded[..., m, :].flatten(0, 1).unbind(1)
                    weights = (query @ key.T * (dim // heads) ** -0.5).softmax(-1)
                    mixed = (weights @ value).view(window, window, -1)[:height, :width]
                    columns = slice(m * (dim // heads), (m + 1) * (dim // heads))
                    output[b, top : top + height, left : left + width, columns] = mixed
    return attn.proj(output.view(batch, -1, dim))


@pytest.mark.parametrize("window_size", [2, 3, 4, 7])
def test_windowed_attention_equals_a_slow_loop(window_size: int) -> None:
    torch.manual_seed(0)
    attn = make_vit(window_sizes=[window_size] * 3).double().blocks[0].attn
    tokens = torch.randn(2, 4 * 6, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = slow_windowed_attention(attn, tokens, (4, 6))
        torch.testing.assert_close(attn(tokens, (4, 6)), expected)


def test_a_window_of_the_whole_grid_is_global() -> None:
    vit = make_vit(window_sizes=[4] * 3).double()
    whole = make_vit().double()
    whole.load_state_dict(vit.state_dict())
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(vit(images)[0], whole(images)[0])


def test_blocks_can_be_run_in_groups() -> None:
    vit = make_vit()
    tokens, grid = vit.embed(torch.randn(2, 3, 32, 48))
    assert tokens.shape == (2, 6, 12)
    assert grid == (2, 3)
    halfway = vit.forward_blocks(tokens, grid, 0, 2)
    assert torch.equal(
        vit.forward_blocks(halfway, grid, 2, 3), vit.forward_blocks(tokens, grid, 0, 3)
    )
    assert vit.forward_blocks(tokens, grid, 1, 1) is tokens


def test_positions_without_the_class_row_are_added() -> None:
    vit = make_vit()
    images = torch.randn(1, 3, 64, 64)
    expected = vit.patch_embed.proj(images).flatten(2).transpose(1, 2) + vit.pos_embed[:, 1:]
    torch.testing.assert_close(vit.embed(images)[0], expected)


def test_drop_path_rises_linearly() -> None:
    vit = PlainViT(**{**TINY, "depth": 5}, drop_path_rate=0.4)
    assert isinstance(vit.blocks[0].drop_path, nn.Identity)
    rates = [block.drop_path.drop_prob for block in vit.blocks[1:]]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert all(isinstance(block.drop_path, DropPath) for block in vit.blocks[1:])


def test_drop_path_drops_whole_images_also_in_windows() -> None:
    torch.manual_seed(0)
    vit = make_vit(window_sizes=[2] * 3, drop_path_rate=0.5).train()
    tokens, grid = torch.randn(64, 24, 12), (4, 6)
    change = (vit.blocks[2](tokens, grid) - tokens).abs().amax(-1)
    untouched = change == 0
    assert untouched.all(1).sum() == untouched.any(1).sum()
    assert 0 < untouched.all(1).sum() < 64


def test_residual_bottleneck_starts_as_the_identity_and_learns() -> None:
    torch.manual_seed(0)
    plain = PlainViT(**TINY)
    with_residual = PlainViT(**TINY, residual_indexes=[0, 2])
    missing = with_residual.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {key.split(".residual.")[0] for key in missing} == {"blocks.0", "blocks.2"}
    images = torch.randn(1, 3, 64, 96)
    tokens, _ = with_residual(images)
    assert torch.equal(tokens, plain(images)[0])
    tokens.square().sum().backward()
    assert with_residual.blocks[2].residual.norm3.weight.grad.abs().sum() > 0


def test_residual_bottleneck_has_the_weights_of_vitdet() -> None:
    dim = 64
    block = PlainViT(embed_dim=dim, depth=1, num_heads=1, residual_indexes=[0]).blocks[0]
    convolutions = [p.numel() for p in block.residual.parameters() if p.ndim == 4]
    assert sum(convolutions) == 3.25 * dim**2
    norms = sum(p.numel() for p in block.residual.parameters()) - sum(convolutions)
    assert norms == 4 * dim


def test_starts_as_timm_does() -> None:
    torch.manual_seed(0)
    vit = PlainViT(embed_dim=64, depth=2, num_heads=2)
    assert vit.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert vit.blocks[1].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert vit.blocks[1].mlp.fc1.bias.abs().sum() == 0
    assert torch.equal(vit.blocks[0].gamma1, torch.ones(64))


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
def test_activation_checkpointing_changes_no_gradient(drop_path_rate: float) -> None:
    options = {"window_sizes": [0, 2, 0], "residual_indexes": [1], "drop_path_rate": drop_path_rate}
    plain = make_vit(**options).train()
    recomputing = PlainViT(**TINY, **options, use_checkpoint=True).train()
    recomputing.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 32, 64)
    for vit in (plain, recomputing):
        torch.manual_seed(1)
        vit(images)[0].square().sum().backward()
    for (name, ours), theirs in zip(
        recomputing.named_parameters(), plain.parameters(), strict=True
    ):
        assert torch.equal(ours.grad, theirs.grad), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "embed_dim must be a multiple of num_heads 5, got 12"),
        ({"img_size": 70}, "img_size must be a multiple of patch_size 16, got 70"),
        ({"depth": 0}, "must be at least 1, got 16, 12, 0, 2"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"window_sizes": [2, 2]}, r"one integer >= 0 for each of the 3 blocks .* got \[2, 2\]"),
        ({"window_sizes": [2, None, 2]}, r"got \[2, None, 2\]"),
        ({"window_sizes": [2, -1, 2]}, r"got \[2, -1, 2\]"),
        ({"residual_indexes": [1, 3]}, r"block numbers from 0 to 2, got \[3\]"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlainViT(**{**TINY, **changes})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 32, 32), r"shape \(B, 3, H, W\), got \(1, 4, 32, 32\)"),
        ((3, 32, 32), r"got \(3, 32, 32\)"),
        ((1, 3, 0, 32), r"sides of at least 1, got \(1, 3, 0, 32\)"),
        ((1, 3, 32, 40), "multiples of the patch size 16, got 32 x 40"),
    ],
)
def test_images_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlainViT(**TINY).embed(torch.zeros(shape))


def test_integer_images_are_refused() -> None:
    with pytest.raises(ValueError, match="normalised float images, got torch.uint8"):
        PlainViT(**TINY).embed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
