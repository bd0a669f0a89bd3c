"""The periods of DINOv3's rotary positions: exact by default, or those of a file."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import RotaryEmbeddingDinoV3
from torch import Tensor

from vit_adapter import TimmViT
from vit_adapter.checkpoint.loading import compare_keys, load_strict
from vit_adapter.checkpoint.pretrained import load_pretrained_vit

NAME = "vit_small_patch16_dinov3"
SIZES = {"depth": 2, "embed_dim": 48}
PERIODS = "model.rope.periods"
IMAGES = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def make_vit() -> TimmViT:
    torch.manual_seed(0)
    vit = TimmViT(name=NAME, model_args={"num_heads": 3}, **SIZES)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.normal_(std=0.3)
    return vit.eval()


def rounded(vit: TimmViT) -> dict[str, Tensor]:
    """The state dict with other periods: rounded to bfloat16, as in DINOv3's files."""
    state_dict = vit.state_dict()
    return state_dict | {PERIODS: state_dict[PERIODS].bfloat16().float()}


def slow_tokens(vit: TimmViT) -> Tensor:
    """The tokens of a ViT without a cache."""
    twin = make_vit()
    twin.load_state_dict(vit.state_dict())
    return twin(IMAGES)[0]


def test_periods_are_timms_until_others_are_loaded() -> None:
    vit = make_vit()
    oracle = timm.create_model(NAME, num_heads=3, **SIZES)
    assert torch.equal(vit.state_dict()[PERIODS], oracle.rope.periods)
    changed = rounded(vit)
    assert not torch.equal(changed[PERIODS], oracle.rope.periods)
    load_strict(vit, changed)
    twin = make_vit()
    load_strict(twin, vit.state_dict())
    assert torch.equal(twin.model.rope.periods, changed[PERIODS])


def test_checkpoints_without_periods_leave_them_unchanged() -> None:
    vit = make_vit()
    without = {k: v for k, v in vit.state_dict().items() if k != PERIODS}
    before = dict(without)
    assert compare_keys(vit, without).is_exact
    exact = vit.model.rope.periods.clone()
    load_strict(vit, without)
    vit.load_state_dict(without)  # strict in PyTorch's sense
    assert torch.equal(vit.model.rope.periods, exact)
    assert without == before


@pytest.mark.parametrize("name", ["rope_embed.periods", "model.rope.periods"])
def test_periods_of_a_file_are_loaded(name: str, tmp_path: Path) -> None:
    vit = make_vit()
    changed = rounded(vit)[PERIODS]
    weights = dict(vit.state_dict())
    del weights[PERIODS]
    if not name.startswith("model."):  # as published
        weights = {k.removeprefix("model."): v for k, v in weights.items()}
    torch.save(weights | {name: changed.bfloat16()}, tmp_path / "weights.pth")
    report = load_pretrained_vit(vit, tmp_path / "weights.pth")
    assert PERIODS in report.loaded and vit.model.rope.periods.dtype == torch.float32
    assert torch.equal(vit.model.rope.periods, changed)


def load(vit: TimmViT) -> TimmViT:
    vit.load_state_dict(rounded(vit))
    return vit


def assign(vit: TimmViT) -> TimmViT:
    vit.load_state_dict(rounded(vit), assign=True)
    return vit


def write(vit: TimmViT) -> TimmViT:
    vit.model.rope.periods.mul_(1.01)
    return vit


@pytest.mark.parametrize(
    "change", [load, assign, write, lambda vit: load(copy.deepcopy(vit)),
               lambda vit: load(pickle.loads(pickle.dumps(vit)))],
    ids=["load", "assign", "write", "copy", "pickle"],
)  # fmt: skip
@torch.no_grad()
def test_cached_positions_follow_the_periods(change: Callable[[TimmViT], TimmViT]) -> None:
    vit = make_vit()
    before = vit(IMAGES)[0]
    changed = change(vit)
    tokens = changed(IMAGES)[0]
    assert not torch.equal(tokens, before)
    assert torch.equal(tokens, slow_tokens(changed))


@torch.no_grad()
def test_positions_of_a_grid_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = make_vit()
    calls = []
    compute = vit.model.rope.get_embed
    monkeypatch.setattr(
        vit.model.rope, "get_embed", lambda shape: calls.append(shape) or compute(shape)
    )
    for height in (32, 64, 32):
        vit(torch.zeros(1, 3, height, 48))
    assert calls == [(2, 3), (4, 3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_do_not_round_the_periods(dtype: torch.dtype) -> None:
    vit = load(make_vit())
    expected = vit.model.rope.periods.clone()
    vit.to(dtype)
    assert torch.equal(vit.model.rope.periods, expected)
    assert PERIODS in vit.state_dict()


@pytest.mark.parametrize("grid", [(1, 1), (7, 3), (40, 51)])
def test_positions_are_timms(grid: tuple[int, int]) -> None:
    rope = make_vit().model.rope
    for dtype in (None, torch.bfloat16):
        assert torch.equal(
            rope.get_embed(grid, dtype), RotaryEmbeddingDinoV3.get_embed(rope, grid, dtype)
        )


def test_positions_are_exact_in_double_precision() -> None:
    rope = make_vit().double().model.rope
    grid, num_periods = (3, 5), len(rope.periods)
    computed = rope.get_embed(grid)
    expected = torch.empty(15, 2, 4 * num_periods, dtype=torch.float64)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = 2 * (row + 0.5) / grid[0] - 1, 2 * (column + 0.5) / grid[1] - 1
            for i, period in enumerate(rope.periods.tolist()):
                for axis, coordinate in enumerate((y, x)):
                    angle = 2 * math.pi * coordinate / period
                    for half in (0, 2 * num_periods):
                        at = half + axis * num_periods + i
                        expected[5 * row + column, 0, at] = math.sin(angle)
                        expected[5 * row + column, 1, at] = math.cos(angle)
    torch.testing.assert_close(computed, expected.flatten(1), rtol=0, atol=1e-14)
    single = rope.float().get_embed(grid)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), computed, rtol=0, atol=1e-5)
