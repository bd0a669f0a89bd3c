"""Windowed blocks of timm's ViTs, compared with one call of timm's attention per window."""

import pytest
import torch
from torch import Tensor, nn

from vit_adapter import TimmViT
from vit_adapter.backbone.timm_vit.windows import windowed_attention

HEADS = {"num_heads": 3}
MODELS = {
    "DeiT-III": "deit3_small_patch16_224",
    "BEiT-3": "beit3_base_patch16_224",
    "DINOv2 with registers": "vit_base_patch14_reg4_dinov2",
    "DINOv3": "vit_small_patch16_dinov3",
    "EVA-02": "eva02_base_patch14_224",
    "RoPE with learned frequencies": "vit_small_patch16_rope_mixed_224",
    "norms after the branches": "vit_base_patch16_rpn_224",
    "norms after the branches, EVA": "eva02_enormous_patch14_clip_224",
    "no class token": "vit_base_patch16_siglip_224",
    "differential attention": "vit_dlittle_patch16_reg1_gap_256",
}


@pytest.fixture(params=MODELS.values(), ids=lambda name: name)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def make_vit(name: str, window_sizes: list[int]) -> TimmViT:
    torch.manual_seed(0)
    vit = TimmViT(
        name=name,
        depth=len(window_sizes),
        window_sizes=window_sizes,
        embed_dim=48,
        model_args=HEADS,
    )
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return vit.double().eval()


def slow_windowed_attention(
    attention: nn.Module,
    tokens: Tensor,
    grid: tuple[int, int],
    window: int,
    num_prefix: int,
    rotary: Tensor | None,
) -> Tensor:
    """One call per window, on its real tokens only."""
    places = torch.arange(grid[0] * grid[1]).view(grid)
    result = torch.zeros_like(tokens)
    prefixes = []
    for top in range(0, grid[0], window):
        for left in range(0, grid[1], window):
            inside = places[top : top + window, left : left + window].flatten()
            part = torch.cat([tokens[:, :num_prefix], tokens[:, num_prefix + inside]], dim=1)
            options = {} if rotary is None else {"rope": rotary[..., inside, :]}
            output = attention(part, **options)
            result[:, num_prefix + inside] = output[:, num_prefix:]
            prefixes.append(output[:, :num_prefix])
    result[:, :num_prefix] = torch.stack(prefixes).mean(0)
    return result


@pytest.mark.parametrize(("grid", "window"), [((4, 6), 2), ((5, 7), 3), ((2, 9), 4), ((1, 1), 2)])
@torch.no_grad()
def test_attention_equals_a_slow_loop(name: str, grid: tuple[int, int], window: int) -> None:
    vit = make_vit(name, [window])
    rotary = None
    if getattr(vit.model, "rope", None) is not None:
        rotary = vit.model.rope.get_embed(shape=grid)
        rotary = rotary[0] if rotary.ndim == 4 else rotary
    prefix = vit.num_prefix_tokens
    tokens = torch.randn(2, prefix + grid[0] * grid[1], 48, dtype=torch.float64)
    attention = vit.model.blocks[0].attn
    expected = slow_windowed_attention(attention, tokens, grid, window, prefix, rotary)
    computed = windowed_attention(
        attention, tokens, grid=grid, window_size=window, num_prefix=prefix, rotary=rotary
    )
    torch.testing.assert_close(computed, expected)


@torch.no_grad()
def test_a_window_of_the_whole_image_is_global(name: str) -> None:
    """Also if the window is larger than the image: nothing attends to the padding."""
    vit, whole = make_vit(name, [4, 7]), make_vit(name, [0, 0])
    images = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    torch.testing.assert_close(vit(images)[0], whole(images)[0])


@torch.no_grad()
def test_windows_communicate_only_through_the_prefix(name: str) -> None:
    vit = make_vit(name, [2, 2])
    images = torch.randn(1, 3, 32, 64, dtype=torch.float64)
    changed = images.clone()
    changed[..., 32:] += 1  # the right window
    (before, grid), (after, _) = vit.embed(images), vit.embed(changed)
    left = [0, 1, 4, 5]
    difference = [
        (vit.forward_blocks(after, grid, 0, stop) - vit.forward_blocks(before, grid, 0, stop))
        .abs()
        .amax(-1)[0, vit.num_prefix_tokens :]
        for stop in (1, 2)
    ]
    assert difference[0][left].max() == 0
    assert (difference[1][left].min() > 0) == (vit.num_prefix_tokens > 0)


@pytest.mark.parametrize(
    ("name", "sizes", "reason"),
    [
        ("beit_base_patch16_224", [2, 0], r"table for the whole grid.*vit_adapter\.BEiT"),
        ("samvit_base_patch16", [14, 0], r"windows of their own, \[14, 14\]"),
        ("vit_base_patch16_xp_224", [0, 2], "ParallelScalingBlock"),
        ("vit_small_patch16_18x2_224", [2, 2], "ParallelThingsBlock"),
    ],
)
def test_windows_are_refused_where_impossible(name: str, sizes: list[int], reason: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot have windows: .*{reason}"):
        TimmViT(name=name, depth=2, window_sizes=sizes, embed_dim=48, model_args=HEADS)


def test_one_window_for_each_block() -> None:
    with pytest.raises(ValueError, match=r"one integer >= 0 for each of the 2 blocks"):
        TimmViT(name="deit3_small_patch16_224", depth=2, window_sizes=[2])
