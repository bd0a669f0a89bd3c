"""A ViT that runs as a fixed feature extractor."""

from collections.abc import Callable, Iterator
from functools import partial

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


@pytest.fixture
def bfloat16_is(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A function that makes bfloat16 "native" or "emulated" on all devices of this machine."""

    def decide(kind: str) -> None:
        frozen._choose_dtype.cache_clear()
        monkeypatch.setattr(frozen, "computes_bfloat16", lambda device_type: kind == "native")

    yield decide
    frozen._choose_dtype.cache_clear()


@pytest.mark.parametrize("autocast", [False, True])
def test_rounds_to_bfloat16_and_returns_float32(
    autocast: bool, device: torch.device, bfloat16_is
) -> None:
    bfloat16_is("native")
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


def test_cpus_that_emulate_bfloat16_compute_in_float32(bfloat16_is) -> None:
    bfloat16_is("emulated")
    vit = make_vit()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, _ = vit(images)
    tokens, grid = FrozenTrunk(vit).embed(images)
    run_blocks = partial(FrozenTrunk(vit).forward_blocks, tokens, grid, 0, 3)
    assert torch.equal(run_blocks(), expected)
    assert torch.equal(torch.compile(run_blocks, fullgraph=True, backend="eager")(), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # requested by the user
        assert not torch.equal(run_blocks(), expected)


@pytest.mark.parametrize(
    ("device_type", "kind", "expected"),
    [
        ("cpu", "native", torch.bfloat16),
        ("cpu", "emulated", torch.float32),
        ("cuda", "native", torch.bfloat16),
        ("cuda", "emulated", torch.float16),
    ],
)
def test_choice_of_the_dtype_is_logged_once(
    device_type: str,
    kind: str,
    expected: torch.dtype,
    bfloat16_is,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger=frozen.__name__)
    bfloat16_is(kind)
    assert [frozen._fast_dtype(device_type) for _ in range(3)] == [expected] * 3
    (message,) = caplog.messages
    assert f"computes in {expected} on {device_type}".replace("torch.", "") in message
    assert ("only emulated" in message) == (kind == "emulated")


def test_double_precision_is_kept() -> None:
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
