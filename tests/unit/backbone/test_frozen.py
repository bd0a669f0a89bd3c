"""A ViT that runs as a fixed feature extractor."""

import pytest
import torch

from vit_adapter import PlainViT
from vit_adapter.backbone import frozen
from vit_adapter.backbone.frozen import FrozenTrunk


def make_vit() -> PlainViT:
    torch.manual_seed(0)
    vit = PlainViT(img_size=64, embed_dim=24, depth=3, num_heads=2, window_sizes=(2, 0, 3))
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.normal_(std=0.3)
    return vit


@pytest.mark.parametrize("autocast", [False, True])
def test_rounds_to_bfloat16_and_returns_float32(autocast: bool, device: torch.device) -> None:
    vit = make_vit().to(device)
    images = torch.randn(2, 3, 64, 96, device=device)
    expected, expected_grid = vit(images)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        tokens, grid = FrozenTrunk(vit).embed(images)
        assert tokens.dtype == torch.float32
        tokens = FrozenTrunk(vit).forward_blocks(tokens, grid, 0, 3)
    assert grid == expected_grid
    assert tokens.dtype == torch.float32 and not tokens.requires_grad
    difference = (tokens - expected).norm() / expected.norm()
    assert 1e-4 < difference < 0.02  # a bfloat16 has 8 bits of precision


def test_gpus_that_emulate_bfloat16_compute_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, expected in ((False, torch.float16), (True, torch.bfloat16)):
        monkeypatch.setattr(
            "torch.cuda.is_bf16_supported",
            lambda including_emulation, supported=supported: including_emulation or supported,
        )
        assert frozen._short_dtype("cuda") == expected
        assert frozen._short_dtype("cpu") == torch.bfloat16


def test_double_precision_stays() -> None:
    vit = make_vit().double()
    images = torch.randn(1, 3, 32, 64, dtype=torch.float64)
    expected, _ = vit(images)
    tokens, grid = FrozenTrunk(vit).embed(images)
    for index in range(3):
        tokens = FrozenTrunk(vit).forward_blocks(tokens, grid, index, index + 1)
    assert torch.equal(tokens, expected)


def test_weights_stay_in_full_precision() -> None:
    vit = make_vit()
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    FrozenTrunk(vit).embed(torch.randn(1, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())
