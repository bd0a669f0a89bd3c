"""Taps that are computed or read for single views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_adapter import PlainViT, ViTAdapter
from vit_adapter.feature_cache import TapStore, ViewTaps, hash_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def make_adapter(patch_size: int = 16) -> ViTAdapter:
    torch.manual_seed(0)
    adapter = ViTAdapter(
        PlainViT(
            img_size=4 * patch_size, patch_size=patch_size, embed_dim=12, depth=4, num_heads=2
        ),
        mode="frozen",
        interaction_indexes=[(0, 0), (1, 1), (2, 2), (3, 3)],
        conv_inplane=4,
        deform_num_heads=2,
        norm="BN",
    )
    with torch.no_grad():
        for parameter in adapter.vit.parameters():
            parameter.normal_(std=0.3)
    return adapter.train()


def make_batch(*sizes: tuple[int, int]) -> tuple[list[dict[str, Any]], Tensor]:
    """Inputs, and the images padded to the largest size and to a multiple of 32."""
    images = [torch.randn(3, *size) for size in sizes]
    sides = [-(-max(lengths) // 32) * 32 for lengths in zip(*sizes, strict=True)]
    padded = [F.pad(i, (0, sides[1] - i.shape[2], 0, sides[0] - i.shape[1])) for i in images]
    inputs = [{"image": image, "view_key": f"{n:04x}"} for n, image in enumerate(images)]
    return inputs, torch.stack(padded)


def read(taps: ViewTaps, inputs: list[dict[str, Any]], images: Tensor) -> list[Tensor]:
    taps.expect(inputs)
    return taps(images)


def test_an_image_alone_has_the_taps_of_the_adapter_in_bfloat16() -> None:
    adapter = make_adapter()
    inputs, images = make_batch((64, 96))
    taps = read(ViewTaps(adapter), inputs, images)
    assert len(taps) == 4
    for tap, expected in zip(taps, adapter.read_taps(images), strict=True):
        assert tap.dtype == torch.float32
        assert torch.equal(tap, expected.to(torch.bfloat16).float())


def test_taps_do_not_depend_on_the_batch() -> None:
    taps = ViewTaps(make_adapter())
    inputs, images = make_batch((40, 70), (96, 50))  # 2 x 3 and 3 x 2 times 32
    together = read(taps, inputs, images)
    for n, (height, width) in enumerate([(64, 96), (96, 64)]):
        alone = read(taps, inputs[n : n + 1], images[n : n + 1, :, :height, :width])
        grid = height // 16, width // 16
        for tap, expected in zip(together, alone, strict=True):
            maps = tap[n].view(6, 6, 12)
            assert torch.equal(maps[: grid[0], : grid[1]], expected.view(*grid, 12))
            assert not maps[grid[0] :].any() and not maps[:, grid[1] :].any()


def test_patches_of_14_pixels_have_a_grid_of_their_own() -> None:
    adapter = make_adapter(patch_size=14)
    inputs, images = make_batch((40, 70), (96, 50))
    adapter.tap_source = taps = ViewTaps(adapter)
    taps.expect(inputs)
    adapter(images)
    assert taps.tap_shape(40, 70) == (4, 4, 6, 12)  # 64 x 96 pixels
    taps.expect(inputs[:1])
    (first, *_) = taps(images[:1, :, :84, :84])
    (expected, *_) = adapter.read_taps(images[:1, :, :56, :84])
    assert torch.equal(first.view(6, 6, 12)[:4].flatten(0, 1), expected[0].bfloat16().float())


def test_stored_taps_equal_computed_ones_and_the_vit_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter()
    inputs, images = make_batch((64, 64), (32, 60))
    expected = read(ViewTaps(adapter), inputs, images)
    first = read(ViewTaps(adapter, TapStore(tmp_path)), inputs, images)
    monkeypatch.setattr(adapter, "read_taps", None)  # calling it now would fail
    store = TapStore(tmp_path)
    second = read(ViewTaps(adapter, store), inputs, images)
    for tap, one, two in zip(expected, first, second, strict=True):
        assert torch.equal(tap, one) and torch.equal(tap, two)
    assert (store.num_read, store.num_computed) == (2, 0)


def test_adapter_uses_its_tap_source_in_training_only() -> None:
    adapter = make_adapter()
    inputs, images = make_batch((64, 64))
    adapter.tap_source = taps = ViewTaps(adapter)
    taps.expect(inputs)
    trained = adapter(images)
    with pytest.raises(RuntimeError, match="expects the 0 images .* got 1"):
        adapter(images)
    adapter.tap_source = lambda images: read(ViewTaps(adapter), inputs, images)
    assert torch.equal(trained["res3"], adapter(images)["res3"])
    adapter.eval()
    adapter.tap_source = None
    expected = adapter(images)
    adapter.tap_source = taps
    assert torch.equal(adapter(images)["res3"], expected["res3"])


def test_weights_are_told_by_values_names_and_shapes() -> None:
    modules = [nn.Linear(2, 3), nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 3))]
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    hashes = [hash_weights(module) for module in modules]
    with torch.no_grad():
        modules[0].bias[1] = -0.0
    hashes.append(hash_weights(modules[0]))
    assert len(set(hashes)) == 4
