"""Norm layers by name, and after convolutions."""

import pytest
import torch
from detectron2.layers import get_norm
from fake_cuda import Launches, move_to_fake_cuda
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vit_adapter.layers import (
    ChannelLayerNorm,
    ConvNormSequential,
    build_norm,
    norm_builder,
    normalise_map,
)


@pytest.mark.parametrize("name", ["BN", "SyncBN", "naiveSyncBN", "FrozenBN", "GN", "LN", ""])
def test_every_name_normalises_on_one_cpu_process(name: str) -> None:
    norm = build_norm(name, 32).train()
    features = torch.randn(2, 32, 3, 5)
    assert norm(features).shape == features.shape


def test_names_give_the_right_classes() -> None:
    assert type(build_norm("BN", 4)) is nn.BatchNorm2d
    assert type(build_norm("SyncBN", 4)) is nn.SyncBatchNorm
    assert type(build_norm("", 4)) is nn.Identity
    assert (type(build_norm("LN", 4)), build_norm("LN", 4).eps) == (ChannelLayerNorm, 1e-6)


def test_a_builder_is_a_norm_for_detectron2() -> None:
    assert type(get_norm(norm_builder("LN"), 4)) is ChannelLayerNorm


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown norm 'batch'; expected one of BN, SyncBN"):
        build_norm("batch", 4)


def test_channel_layer_norm_normalises_every_position() -> None:
    features = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    norm = ChannelLayerNorm(8, eps=0.0).double()
    normed = norm(features)
    expected = (features - features.mean(1, keepdim=True)) / features.std(1, False, keepdim=True)
    torch.testing.assert_close(normed, expected)


def make_layers(norm: str, **changes: object) -> list[nn.Module]:
    """A convolution, a norm with random statistics, and a ReLU."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 32, 3, padding=1, **changes), build_norm(norm, 32), nn.ReLU()]
    for tensor in layers[1].state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    return layers


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN", "FrozenBN", "GN", ""])
@pytest.mark.parametrize(
    "changes",
    [
        {"bias": False},
        {"stride": 2, "dilation": 2, "groups": 2},
        {"padding_mode": "reflect", "stride": 2},
    ],
)
def test_folding_changes_nothing(norm: str, changes: dict[str, object]) -> None:
    layers = make_layers(norm, **changes)
    plain, folding = nn.Sequential(*layers).eval(), ConvNormSequential(*layers).eval()
    assert list(plain.state_dict()) == list(folding.state_dict())
    images = torch.randn(2, 4, 6, 5)
    with torch.no_grad():
        expected = plain(images)
        torch.testing.assert_close(folding(images), expected)
        layers[0].weight.mul_(2)  # no folded weights may be kept
        assert not torch.allclose(folding(images), expected)
        torch.testing.assert_close(folding(images), plain(images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_folding_is_as_precise_as_the_dtype(dtype: torch.dtype) -> None:
    layers = [layer.to(dtype).eval() for layer in make_layers("BN")]
    images = torch.randn(2, 4, 6, 5, dtype=dtype)
    with torch.no_grad():
        expected = nn.Sequential(*layers)(images)
        actual = ConvNormSequential(*layers)(images)
    tolerance = 1e-12 if dtype == torch.float64 else 3e-2
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def test_folds_only_where_nothing_depends_on_the_batch() -> None:
    layers = make_layers("BN")
    calls = []
    layers[1].register_forward_hook(lambda *_: calls.append(1))
    model = ConvNormSequential(*layers)
    images = torch.randn(2, 4, 6, 5)
    model.eval()(images)  # with gradients
    with torch.no_grad():
        model.train()(images)
        assert len(calls) == 2
        model.eval()(images)
        assert len(calls) == 2


NAMES = ["BN", "SyncBN", "naiveSyncBN", "FrozenBN", "GN", ""]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_norm_in_place_equals_the_norm(name: str, training: bool) -> None:
    norm = make_layers(name)[1].train(training)
    features = torch.randn(2, 32, 6, 5)
    with torch.no_grad():
        expected = norm(features.clone())
        given = features.clone()
        actual = normalise_map(norm, given, in_place=True)
    torch.testing.assert_close(actual, expected)
    changed = name == "FrozenBN" or (name.endswith("BN") and not training)
    assert (actual.data_ptr() == given.data_ptr()) == (changed or name == "")
    with torch.no_grad():
        normalise_map(norm, given := features.clone())
    assert torch.equal(given, features)


def test_norm_in_place_rounds_once_in_16_bits() -> None:
    norm, features = make_layers("BN")[1].eval().bfloat16(), torch.randn(2, 32, 6, 5).bfloat16()
    with torch.no_grad():
        expected = norm(features)
        assert torch.equal(normalise_map(norm, features, in_place=True), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["BN", "SyncBN", "FrozenBN"])
def test_a_norm_on_cuda_passes_over_the_map_once(name: str, fake_cuda: FakeTensorMode) -> None:
    norm = make_layers(name)[1].eval()
    with fake_cuda:
        features = torch.empty(2, 32, 6, 5, device="cuda").to(memory_format=torch.channels_last)
        move_to_fake_cuda(norm)
        with Launches() as launches:
            normed = normalise_map(norm, features, in_place=True)
    assert launches.count == 1 and normed.stride() == features.stride()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "naiveSyncBN"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layout", ["map", "tokens", "expanded"])
def test_gradients_for_any_strides(name: str, training: bool, batch: int, layout: str) -> None:
    """Maps and gradients that are views of tokens; PyTorch computes some of these wrong."""
    tokens = torch.randn(batch, 12, 32, dtype=torch.float64)
    gradient = {
        "map": torch.randn(batch, 32, 3, 4, dtype=torch.float64),
        "tokens": torch.randn_like(tokens).transpose(1, 2).unflatten(2, (3, 4)),
        "expanded": torch.randn(1, 32, 1, 1, dtype=torch.float64).expand(batch, 32, 3, 4),
    }[layout]
    results = []
    for compute in (
        lambda norm, x: norm(x.clone(memory_format=torch.contiguous_format)),
        lambda norm, x: normalise_map(norm, x, in_place=True),
    ):
        norm = make_layers(name)[1].double().train(training)
        leaf = tokens.clone().requires_grad_()
        output = compute(norm, leaf.transpose(1, 2).unflatten(2, (3, 4)))
        given = gradient if results else gradient.contiguous()
        output.backward(given)
        parameters = [p.grad for p in norm.parameters()]
        results.append([output, leaf.grad, *parameters, *norm.buffers()])
        assert torch.equal(leaf, tokens)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["BN", "SyncBN", "FrozenBN"])
def test_maps_on_cuda_keep_their_strides_in_training(name: str, fake_cuda: FakeTensorMode) -> None:
    norm = make_layers(name)[1].train()
    with fake_cuda:
        features = torch.empty(2, 32, 6, 5, device="cuda").to(memory_format=torch.channels_last)
        assert normalise_map(move_to_fake_cuda(norm), features).stride() == features.stride()
