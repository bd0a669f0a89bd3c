"""A ViT that runs as a fixed feature extractor."""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from vit_adapter import PlainViT, TimmViT, ViTAdapter
from vit_adapter.backbone import frozen
from vit_adapter.backbone.frozen import FrozenTrunk, store_in_bfloat16
from vit_adapter.checkpoint.loading import load_strict
from vit_adapter.ops.exporting import exporting


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


@torch.no_grad()
def test_exports_in_float32(bfloat16_is) -> None:
    bfloat16_is("native")
    vit = make_vit()
    images = torch.randn(2, 3, 64, 96)
    expected, _ = vit(images)
    with exporting():
        tokens, grid = FrozenTrunk(vit).embed(images)
        tokens = FrozenTrunk(vit).forward_blocks(tokens, grid, 0, 3)
    torch.testing.assert_close(tokens, expected)


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


@torch.no_grad()
@pytest.mark.parametrize("in_bfloat16", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_converted_model_computes_without_autocast(
    dtype: torch.dtype, in_bfloat16: bool, bfloat16_is
) -> None:
    bfloat16_is("native")
    vit = make_vit().to(dtype)
    images = torch.randn(1, 3, 64, 64, dtype=dtype)
    expected, _ = vit(images)
    active = []
    for part in (vit.patch_embed, vit.blocks[0]):
        part.register_forward_hook(lambda *_: active.append(torch.is_autocast_enabled("cpu")))
    tokens, grid = FrozenTrunk(vit, in_bfloat16=in_bfloat16).embed(images)
    tokens = FrozenTrunk(vit, in_bfloat16=in_bfloat16).forward_blocks(tokens, grid, 0, 3)
    assert torch.equal(tokens, expected) and tokens.dtype == dtype
    assert active == [False, False]


def test_weights_stay_in_full_precision() -> None:
    vit = make_vit()
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    FrozenTrunk(vit).embed(torch.randn(1, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


def make_adapters(**changes: object) -> tuple[ViTAdapter, ViTAdapter]:
    """Two adapters with the same weights; the second stores those of its ViT in bfloat16."""
    arguments = {
        "mode": "frozen",
        "interaction_indexes": [(0, 0), (1, 2)],
        "conv_inplane": 4,
        "deform_num_heads": 2,
        "norm": "BN",
    }
    full = ViTAdapter(make_vit(), **arguments | changes)
    half = ViTAdapter(make_vit(), frozen_dtype="bfloat16", **arguments | changes)
    half.load_state_dict(full.state_dict())
    return full.eval(), half.eval()


def test_weights_in_bfloat16_give_identical_features(device: torch.device, bfloat16_is) -> None:
    bfloat16_is("native")
    full, half = (adapter.to(device) for adapter in make_adapters())
    images = torch.randn(2, 3, 64, 96, device=device)
    with torch.no_grad():
        expected, features = full(images), half(images)
    assert all(torch.equal(features[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_plus_patch16_dinov3_qkvb",
        "vit_giant_patch14_dinov2",
        "beit_base_patch16_224",
        "samvit_base_patch16",
    ],
)
def test_timms_vits_in_bfloat16_give_identical_tokens(name: str, bfloat16_is) -> None:
    bfloat16_is("native")
    vit = TimmViT(name=name, depth=2, embed_dim=48, model_args={"num_heads": 3}).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.normal_(std=0.3)
    rounded = copy.deepcopy(vit)
    store_in_bfloat16(rounded)
    images = torch.randn(1, 3, 64, 96)
    tokens, grid = FrozenTrunk(vit).embed(images)
    same, _ = FrozenTrunk(rounded, in_bfloat16=True).embed(images)
    assert torch.equal(same, tokens)
    expected = FrozenTrunk(vit).forward_blocks(tokens, grid, 0, 2)
    same = FrozenTrunk(rounded, in_bfloat16=True).forward_blocks(tokens, grid, 0, 2)
    assert torch.equal(same, expected) and expected.isfinite().all()


def test_only_matrices_and_kernels_are_stored_in_bfloat16() -> None:
    _, half = make_adapters()
    stored = {name for name, p in half.named_parameters() if p.dtype == torch.bfloat16}
    expected = {
        f"vit.{name}.{kind}"
        for name, module in half.vit.named_modules()
        if type(module).__name__ in ("Linear", "Conv2d")
        for kind in ("weight", "bias")
    }
    assert stored == expected and "vit.patch_embed.proj.bias" in stored
    assert {p.dtype for n, p in half.named_parameters() if n not in stored} == {torch.float32}


def test_checkpoints_in_bfloat16_load_into_either() -> None:
    full, half = make_adapters()
    saved = half.state_dict()
    assert saved["vit.blocks.0.attn.qkv.weight"].dtype == torch.bfloat16
    for adapter in (full, half):
        load_strict(adapter, {name: value.clone() for name, value in saved.items()})
        for name, value in adapter.state_dict().items():
            assert torch.equal(value.to(saved[name].dtype), saved[name])


@pytest.mark.parametrize("mode", ["full", "light"])
def test_a_vit_that_trains_stays_in_float32(mode: str) -> None:
    _, half = make_adapters(mode=mode)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}


def test_weights_in_bfloat16_are_refused_where_they_would_change_numbers(bfloat16_is) -> None:
    bfloat16_is("emulated")
    _, half = make_adapters()
    images = torch.randn(1, 3, 32, 32)
    with pytest.raises(RuntimeError, match="computes in float32 on cpu here.*frozen_dtype='float3"):
        half(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half(images)
    with torch.autocast("cpu", dtype=torch.float16):
        with pytest.raises(RuntimeError, match="computes in float16 on cpu"):
            half(images)
    half.double()(images.double())
