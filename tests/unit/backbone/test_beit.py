"""BEiT as a trunk, with timm's BEiT as the oracle."""

import copy

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vit_adapter import BEiT, ViTAdapter
from vit_adapter.backbone import beit as beit_module
from vit_adapter.layers.relative_position import resize_offsets

TINY = {"img_size": 64, "embed_dim": 12, "depth": 3, "num_heads": 2}


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module


def make_beit(**changes: object) -> BEiT:
    return randomise(BEiT(**{**TINY, **changes}))


def make_adapter(**options: object) -> ViTAdapter:
    adapter = ViTAdapter(
        BEiT(**TINY), interaction_indexes=[(0, 1), (2, 2)], conv_inplane=4, deform_num_heads=2,
        norm="BN", **options,
    )  # fmt: skip
    return randomise(adapter)


def make_timm(name: str, **changes: object) -> nn.Module:
    sizes = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}
    return randomise(timm.create_model(name, **{**sizes, **changes})).double().eval()


def from_timm(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    head = ("norm.", "fc_norm.", "head.")
    return {k: v for k, v in state_dict.items() if not k.startswith(head)}


@pytest.mark.parametrize("img_size", [64, (48, 80)])
@pytest.mark.parametrize("name", ["beit_base_patch16_224", "beitv2_base_patch16_224"])
def test_equals_timm(name: str, img_size: object) -> None:
    reference = make_timm(name, img_size=img_size)
    beit = BEiT(embed_dim=48, depth=2, num_heads=3, img_size=img_size, init_values=1).double()
    beit.load_state_dict(from_timm(reference.state_dict()))
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        tokens, grid = beit(images)
        expected, prefix = reference.forward_intermediates(
            images, norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )[-1]
    assert grid == (height // 16, width // 16)
    torch.testing.assert_close(tokens[:, 1:], expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(tokens[:, :1], prefix, atol=1e-9, rtol=1e-9)


def slow_windowed_attention(attn: nn.Module, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Window by window, head by head; the input is padded with zeros, not masked."""
    window, heads = attn.native_grid[0], attn.num_heads
    batch, _, dim = tokens.shape
    x = tokens.view(batch, *grid, dim)
    output = torch.zeros_like(x)
    places = [(i, j) for i in range(window) for j in range(window)]
    rows = [
        [(qy - ky + window - 1) * (2 * window - 1) + qx - kx + window - 1 for ky, kx in places]
        for qy, qx in places
    ]
    bias = attn.relative_position_bias_table[torch.tensor(rows)]  # (w*w, w*w, M)
    zero = torch.zeros_like(attn.q_bias)
    for b in range(batch):
        for top in range(0, grid[0], window):
            for left in range(0, grid[1], window):
                inside = x[b, top : top + window, left : left + window]
                padded = torch.zeros(window, window, dim, dtype=x.dtype)
                padded[: inside.shape[0], : inside.shape[1]] = inside
                qkv = padded.flatten(0, 1) @ attn.qkv.weight.T
                qkv = qkv + torch.cat([attn.q_bias, zero, attn.v_bias])
                query, key, value = qkv.view(-1, 3, heads, dim // heads).unbind(1)
                mixed = []
                for m in range(heads):
                    logits = query[:, m] @ key[:, m].T * (dim // heads) ** -0.5 + bias[..., m]
                    mixed.append(logits.softmax(-1) @ value[:, m])
                merged = torch.cat(mixed, -1).view(window, window, dim)
                output[b, top : top + window, left : left + window] = merged[
                    : inside.shape[0], : inside.shape[1]
                ]
    return attn.proj(output.view(batch, -1, dim))


@pytest.mark.parametrize("window_size", [1, 2, 3, 4, 7])
def test_windowed_attention_equals_a_slow_loop(window_size: int) -> None:
    beit = make_beit(window_sizes=[window_size] * 3, class_token=False)
    attn = beit.double().blocks[0].attn
    tokens = torch.randn(2, 4 * 6, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = slow_windowed_attention(attn, tokens, (4, 6))
        torch.testing.assert_close(attn(tokens, (4, 6)), expected)


def test_windowed_and_global_blocks_have_their_own_tables() -> None:
    beit = make_beit(window_sizes=[2, 0, 3], class_token=False, img_size=(64, 96))
    rows = [len(block.attn.relative_position_bias_table) for block in beit.blocks]
    assert rows == [9, 7 * 11, 25]
    assert [len(b.attn.relative_position_bias_table) for b in make_beit().blocks] == [7 * 7 + 3] * 3


@pytest.mark.parametrize("class_token", [True, False])
def test_another_size_is_the_model_with_resized_tables(class_token: bool) -> None:
    beit = make_beit(class_token=class_token).double().eval()
    larger = make_beit(class_token=class_token, img_size=(96, 48)).double().eval()
    larger.load_state_dict(
        {
            name: resize_offsets(value, (4, 4), (6, 3)) if "bias_table" in name else value
            for name, value in beit.state_dict().items()
        }
    )
    images = torch.randn(2, 3, 96, 48, dtype=torch.float64)
    torch.testing.assert_close(beit(images), larger(images))


def test_tables_learn_at_another_size() -> None:
    beit = make_beit()
    beit(torch.randn(1, 3, 32, 80))[0].square().sum().backward()
    for block in beit.blocks:
        assert block.attn.relative_position_bias_table.grad.abs().sum() > 0


def count_bias_computations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls = []
    original = beit_module.relative_position_bias
    monkeypatch.setattr(
        beit_module,
        "relative_position_bias",
        lambda table, grid, **options: calls.append(grid) or original(table, grid, **options),
    )
    return calls


def test_biases_are_cached_per_grid_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_bias_computations(monkeypatch)
    beit = make_beit().eval()
    small, large = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        first = beit(small)[0]
        assert calls == [(4, 4)] * 3
        beit(large)
        assert torch.equal(beit(small)[0], first)
    assert calls == [(4, 4)] * 3 + [(6, 4)] * 3


def test_biases_are_computed_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_bias_computations(monkeypatch)
    beit = make_beit(window_sizes=[2] * 3, class_token=False).train()
    beit(torch.randn(2, 3, 64, 96))[0].sum().backward()
    assert calls == [(2, 2)] * 3


def _step(beit: BEiT) -> None:
    optimizer = torch.optim.SGD(beit.parameters(), lr=0.1)
    with torch.enable_grad():
        beit(torch.randn(1, 3, 64, 64))[0].square().mean().backward()
    optimizer.step()


def _load(beit: BEiT) -> None:
    beit.load_state_dict(make_beit().state_dict())


def _assign(beit: BEiT) -> None:
    beit.load_state_dict(make_beit().state_dict(), assign=True)


def _write_data_between_modes(beit: BEiT) -> None:
    beit.train()
    for parameter in beit.parameters():
        parameter.data.mul_(0.5)
    beit.eval()


@pytest.mark.parametrize("change", [_step, _load, _assign, _write_data_between_modes])
def test_no_stale_bias_after_the_weights_changed(change: object) -> None:
    beit = make_beit().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = beit(images)[0]
        change(beit)
        after = beit(images)[0]
        fresh = make_beit().eval()
        fresh.load_state_dict(beit.state_dict())
        torch.testing.assert_close(after, fresh(images)[0], rtol=0, atol=0)
    assert not torch.allclose(before, after)


def test_copies_and_other_dtypes_have_their_own_biases() -> None:
    beit = make_beit().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = beit(images)[0]
        copied = copy.deepcopy(beit)
        torch.testing.assert_close(copied(images)[0], expected, rtol=0, atol=0)
        half = beit.bfloat16()(images.bfloat16())[0]
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.2, rtol=0.1)


def test_autocast_casts_the_bias() -> None:
    beit = make_beit()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = beit(torch.randn(1, 3, 64, 64))[0]
    tokens.float().sum().backward()
    assert beit.blocks[0].attn.relative_position_bias_table.grad.dtype == torch.float32


def test_frozen_mode_supports_beit() -> None:
    """In bfloat16, at another image size, with a class token that no extractor sees."""
    adapter = make_adapter(mode="frozen").train()
    outputs = adapter(torch.randn(2, 3, 96, 64))
    sum(value.mean() for value in outputs.values()).backward()
    assert all(parameter.grad is None for parameter in adapter.vit.parameters())
    assert adapter.interactions[0].extractor.ffn.fc1.weight.grad is not None


def test_recomputation_changes_no_gradient() -> None:
    beit = make_beit()
    recomputing = make_beit(use_checkpoint=True)
    recomputing.load_state_dict(beit.state_dict())
    images = torch.randn(1, 3, 48, 64)
    for model in (beit, recomputing):
        model(images)[0].square().sum().backward()
    for (name, one), two in zip(beit.named_parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=lambda m, n=name: f"{n}: {m}")


def test_initial_weights_are_the_originals() -> None:
    beit = BEiT(embed_dim=192, depth=2, num_heads=3, img_size=64, init_values=0.1)
    block = beit.blocks[0]
    for zero in (
        block.attn.relative_position_bias_table,
        block.attn.q_bias,
        block.attn.v_bias,
        block.attn.proj.bias,
        block.mlp.fc1.bias,
        beit.patch_embed.proj.bias,
    ):
        assert not zero.any()
    for weight in (block.attn.qkv.weight, block.mlp.fc2.weight, beit.cls_token):
        assert weight.std().item() == pytest.approx(0.02, rel=0.2)
    expected = (2 / (256 * 192)) ** 0.5
    assert beit.patch_embed.proj.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert torch.equal(block.gamma_1, torch.full((192,), 0.1))
    assert BEiT(**TINY, init_values=None).blocks[0].gamma_1 is None


def test_drop_path_rises_linearly() -> None:
    blocks = BEiT(**{**TINY, "depth": 5}, drop_path_rate=0.4).blocks
    rates = [b.drop_path.drop_prob if isinstance(b.drop_path, DropPath) else 0 for b in blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_keys_have_no_bias() -> None:
    """Padded tokens of a window have zero keys: they differ only in their position bias."""
    names = {name for name, _ in BEiT(**TINY).blocks[0].attn.named_parameters()}
    assert names == {
        "q_bias",
        "v_bias",
        "qkv.weight",
        "proj.weight",
        "proj.bias",
        "relative_position_bias_table",
    }
    without = {name for name, _ in BEiT(**TINY, qkv_bias=False).blocks[0].attn.named_parameters()}
    assert names - without == {"q_bias", "v_bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_sizes": [2, 0, 0]}, r"windows cannot hold a class token.*got .*\[2, 0, 0\]"),
        ({"window_sizes": [2, 2], "class_token": False}, "one integer >= 0 for each of the 3"),
        ({"img_size": (64, 70)}, r"multiple of patch_size 16, got \(64, 70\)"),
        ({"num_heads": 5}, "multiple of num_heads 5, got 12"),
        ({"drop_path_rate": 1.0}, r"in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BEiT(**{**TINY, **changes})


def test_adapter_accepts_images_of_any_size() -> None:
    adapter = make_adapter().eval()
    with torch.no_grad():
        outputs = adapter(torch.randn(1, 3, 70, 90))
    sizes = {name: tuple(value.shape[-2:]) for name, value in outputs.items()}
    assert sizes == {"res2": (18, 23), "res3": (9, 12), "res4": (5, 6), "res5": (3, 3)}


def test_attention_kernels_agree_on_the_bias() -> None:
    """Fused attention reads the padded rows of the bias; the plain formula does not."""
    beit = make_beit().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        with sdpa_kernel(SDPBackend.MATH):
            expected = beit(images)[0]
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            torch.testing.assert_close(beit(images)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_adapter_compiles_into_one_graph() -> None:
    """At a size that the tables were not made for: the spline becomes a constant of the graph."""
    torch.compiler.reset()
    adapter = make_adapter().eval()
    images = torch.randn(1, 3, 96, 64)
    compiled = torch.compile(adapter, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), adapter(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dynamic", [None, True])  # None: from the second size on
@torch.no_grad()
def test_compiles_where_sizes_are_symbols(dynamic: bool | None) -> None:
    torch.compiler.reset()
    beit = make_beit().eval()
    compiled = torch.compile(beit, fullgraph=True, backend="eager", dynamic=dynamic)
    for size in [(96, 64), (64, 96)]:
        images = torch.randn(1, 3, *size)
        torch.testing.assert_close(compiled(images), beit(images), atol=1e-4, rtol=1e-4)
