"""A fixed ViT whose attention learns corrections of low rank."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from vit_adapter import PlainViT, TimmViT, ViTAdapter
from vit_adapter.backbone import ViTTrunk, frozen
from vit_adapter.backbone.frozen import FrozenTrunk
from vit_adapter.backbone.lora import LoRALinear, belongs_to_lora, merged_state_dict
from vit_adapter.layers import Linear

DEPTH = 2
SIZES = {"embed_dim": 24, "depth": DEPTH, "img_size": 64}


def plain(**options: object) -> PlainViT:
    return PlainViT(**SIZES, num_heads=2, **options)


def windowed(**options: object) -> PlainViT:
    return plain(window_sizes=[3, 0], residual_indexes=[1], **options)


def of_timm(name: str) -> Callable[..., TimmViT]:
    def make(**options: object) -> TimmViT:
        return TimmViT(name=name, **SIZES, model_args={"num_heads": 2}, **options)

    return make


TRUNKS = {
    "plain": plain,
    "windowed": windowed,
    "DINOv2": of_timm("vit_small_patch14_dinov2"),
    "DINOv3": of_timm("vit_small_patch16_dinov3"),
    "DINOv3, bias": of_timm("vit_small_patch16_dinov3_qkvb"),
    "EVA-02, three projections": of_timm("eva02_base_patch14_224"),
    "BEiT": of_timm("beit_base_patch16_224"),
    "SAM": of_timm("samvit_base_patch16"),
    "parallel": of_timm("vit_small_patch16_36x1_224"),
    "several branches": of_timm("vit_small_patch16_18x2_224"),
}
BIAS_IS_SEPARATE = ("DINOv3, bias", "BEiT")


@pytest.fixture(params=TRUNKS, ids=lambda key: key.replace(", ", "-").replace(" ", "-"))
def trunk(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def native_bfloat16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All devices of this machine seem to compute bfloat16 fast."""
    frozen._choose_dtype.cache_clear()
    monkeypatch.setattr(frozen, "computes_bfloat16", lambda device_type: True)
    yield
    frozen._choose_dtype.cache_clear()


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)


def factors(vit: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in vit.named_parameters() if belongs_to_lora(name)}


def pair(make: Callable[..., ViTTrunk]) -> tuple[ViTTrunk, ViTTrunk]:
    """A ViT with random weights, and the same one with factors at their initial values."""
    base, adapted = make(), make(lora_rank=4)
    randomise(base)
    missing, unexpected = adapted.load_state_dict(base.state_dict(), strict=False)
    assert missing == list(filter(belongs_to_lora, adapted.state_dict())) and not unexpected
    return base, adapted


def test_starts_as_the_vit_without_factors(trunk: str) -> None:
    base, adapted = pair(TRUNKS[trunk])
    images = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        found, expected = (vit.eval()(images)[0] for vit in (adapted, base))
    if trunk in BIAS_IS_SEPARATE:  # one more rounding
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(found, expected)


def test_all_factors_and_nothing_else_learn(trunk: str) -> None:
    vit = TRUNKS[trunk](lora_rank=4)
    randomise(vit)
    vit(torch.randn(1, 3, 48, 80))[0].square().sum().backward()
    learning = {name for name, p in vit.named_parameters() if p.grad is not None}
    assert learning == {name for name, p in vit.named_parameters() if p.requires_grad}
    assert all(p.grad.abs().sum() > 0 for p in factors(vit).values())
    assert {name for name in learning if ".residual." not in name} == set(factors(vit))


def test_qkv_and_proj_of_every_block_have_factors() -> None:
    names = [
        f"blocks.{block}.attn.{layer}.{factor}"
        for block in range(DEPTH)
        for layer in ("qkv", "proj")
        for factor in ("lora_a", "lora_b")
    ]
    assert list(factors(plain(lora_rank=4))) == names
    shapes = [tuple(p.shape) for p in factors(plain(lora_rank=4)).values()]
    assert shapes[:4] == [(4, 24), (72, 4), (4, 24), (24, 4)]


def test_there_are_none_by_default() -> None:
    vit = plain()
    assert not factors(vit) and all(p.requires_grad for p in vit.parameters())
    assert vit.lora_rank == 0 and plain(lora_rank=2).lora_rank == 2


def test_bottlenecks_that_no_pre_training_has_are_trained() -> None:
    vit = windowed(lora_rank=4)
    trained = {name for name, p in vit.named_parameters() if p.requires_grad}
    residual = {name for name, _ in vit.named_parameters() if ".residual." in name}
    assert residual and trained == residual | set(factors(vit))


@pytest.mark.parametrize("kind", [nn.Linear, Linear])
@pytest.mark.parametrize(("alpha", "scale"), [(3.0, 1.0), (6.0, 2.0)])
def test_adds_the_scaled_product_of_the_factors(
    kind: type[nn.Linear], alpha: float, scale: float
) -> None:
    layer = LoRALinear(kind(8, 12), rank=3, alpha=alpha).double()
    randomise(layer)
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    weight = layer.weight + scale * layer.lora_b @ layer.lora_a
    expected = tokens @ weight.T + layer.bias
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-12, atol=1e-12)


def test_scale_is_one_by_default() -> None:
    scales = [
        {float(v) for k, v in plain(lora_rank=4, **options).named_buffers() if "lora_scale" in k}
        for options in ({}, {"lora_alpha": 8}, {"lora_alpha": 2.0})
    ]
    assert scales == [{1.0}, {2.0}, {0.5}]


def test_checkpoints_hold_the_scale() -> None:
    trained, other = plain(lora_rank=4, lora_alpha=8), plain(lora_rank=4)
    randomise(trained)
    other.load_state_dict(trained.state_dict())
    images = torch.randn(1, 3, 48, 80)
    assert torch.equal(other(images)[0], trained(images)[0])


def test_recomputed_blocks_have_the_same_gradients() -> None:
    images = torch.randn(1, 3, 64, 64)
    for make in (plain, TRUNKS["DINOv2"]):
        results = []
        for use_checkpoint in (False, True):
            torch.manual_seed(0)
            vit = make(lora_rank=4, use_checkpoint=use_checkpoint)
            randomise(vit)
            vit(images)[0].square().sum().backward()
            results.append([p.grad for p in factors(vit).values()])
        assert all(map(torch.equal, *results))


def test_trains_under_autocast() -> None:
    vit = plain(lora_rank=4)
    randomise(vit)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, _ = vit(torch.randn(1, 3, 64, 64))
    tokens.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in factors(vit).values())


@pytest.mark.slow
def test_compiles_into_one_graph() -> None:
    torch.compiler.reset()
    vit = plain(lora_rank=4)
    randomise(vit)
    images = torch.randn(1, 3, 64, 64)

    def gradients(run: Callable[[Tensor], tuple]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(images)[0].square().sum(), list(factors(vit).values()))

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(vit, fullgraph=True, backend=counter)
    torch.testing.assert_close(gradients(compiled), gradients(vit), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


def make_adapter(mode: str, **options: object) -> ViTAdapter:
    torch.manual_seed(0)
    vit = plain(**options)
    indexes = [(0, 0), (1, 1)]
    adapter = ViTAdapter(
        vit, interaction_indexes=indexes, mode=mode, conv_inplane=4, deform_num_heads=2, norm="LN"
    )
    # Values that do not depend on the mode and on the factors
    for name, parameter in adapter.named_parameters():
        if not belongs_to_lora(name):
            values = torch.arange(parameter.numel(), dtype=torch.float32)
            parameter.data.copy_(values.mul(sum(map(ord, name))).sin().view(parameter.shape) / 5)
    return adapter


@pytest.mark.parametrize("mode", ["full", "frozen", "light"])
def test_every_mode_trains_the_factors_and_the_adapter(mode: str) -> None:
    adapter = make_adapter(mode, lora_rank=4).train()
    randomise(adapter.vit)
    sum(f.sin().sum() for f in adapter(torch.randn(2, 3, 64, 64)).values()).backward()
    trained = {name for name, p in adapter.named_parameters() if p.requires_grad}
    # Distributed training waits for every gradient.
    assert trained == {name for name, p in adapter.named_parameters() if p.grad is not None}
    of_vit = {name.removeprefix("vit.") for name in trained if name.startswith("vit.")}
    assert of_vit == set(factors(adapter.vit))
    assert all(p.grad.abs().sum() > 0 for p in factors(adapter.vit).values())
    others = {name for name, _ in adapter.named_parameters() if not name.startswith("vit.")}
    assert others <= trained


@pytest.mark.parametrize("mode", ["full", "frozen", "light"])
def test_every_mode_starts_as_without_factors(mode: str, native_bfloat16: None) -> None:
    images = torch.randn(1, 3, 64, 64)
    results = []
    for options in ({}, {"lora_rank": 4}):
        adapter = make_adapter(mode, **options, drop_path_rate=0.5)
        adapter.train(mode == "frozen")  # in which stochastic depth is off
        results.append(adapter(images))
    without, with_factors = results
    # Without gradients, the frozen blocks round differently.
    tolerance = 0.02 if mode == "frozen" else 0.0
    torch.testing.assert_close(with_factors, without, rtol=tolerance, atol=tolerance)


def test_frozen_vit_rounds_and_keeps_gradients_for_its_factors(native_bfloat16: None) -> None:
    vit = plain(lora_rank=4)
    randomise(vit)
    images = torch.randn(1, 3, 64, 64)
    tokens, grid = FrozenTrunk(vit).embed(images)
    assert not tokens.requires_grad
    found = FrozenTrunk(vit).forward_blocks(tokens, grid, 0, DEPTH)
    expected, _ = vit(images)
    assert found.dtype == torch.float32 and found.requires_grad
    assert 1e-4 < (found - expected).norm() / expected.norm() < 0.03
    with torch.no_grad():
        assert not FrozenTrunk(vit).forward_blocks(tokens, grid, 0, DEPTH).requires_grad


def test_frozen_vit_with_factors_is_not_run_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_fast_dtype", lambda device_type: torch.float16)
    images = torch.randn(1, 3, 64, 64)
    for rank, rounds in ((0, True), (4, False)):
        vit = plain(lora_rank=rank)
        randomise(vit)
        tokens, grid = vit.embed(images)
        found = FrozenTrunk(vit).forward_blocks(tokens, grid, 0, DEPTH)
        assert torch.equal(found, vit.forward_blocks(tokens, grid, 0, DEPTH)) != rounds


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_weights_compute_the_same(trunk: str, dtype: torch.dtype) -> None:
    adapted, merged = TRUNKS[trunk](lora_rank=4, lora_alpha=6).to(dtype).eval(), TRUNKS[trunk]()
    randomise(adapted)
    names = set(adapted.state_dict())
    merged.to(dtype).eval().load_state_dict(merged_state_dict(adapted))
    images = torch.randn(1, 3, 48, 80, dtype=dtype)
    expected = adapted(images)[0]
    difference = (merged(images)[0] - expected).norm() / expected.norm()
    assert difference < (1e-6 if dtype == torch.float32 else 1e-14)
    assert set(adapted.state_dict()) == names  # not changed


def test_without_factors_there_is_nothing_to_merge() -> None:
    vit = plain()
    merged = merged_state_dict(vit)
    assert all(torch.equal(merged[name], value) for name, value in vit.state_dict().items())
    layer = LoRALinear(nn.Linear(4, 4), rank=2, alpha=2)
    assert set(merged_state_dict(layer)) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (plain, {"lora_rank": -1}, "lora_rank must be an integer >= 0 .* got -1"),
        (plain, {"lora_rank": 1.5}, "lora_rank must be an integer >= 0 .* got 1.5"),
        (plain, {"lora_rank": 4, "lora_alpha": 0}, "lora_alpha must be a positive number"),
        (
            of_timm("vit_base_patch16_xp_224"),
            {"lora_rank": 4},
            "ParallelScalingBlock blocks, which do not; set lora_rank=0",
        ),
    ],
)
def test_refuses_arguments(make: Callable, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
