"""The public function: every dtype, difficult shapes, layouts, autocast, bad arguments."""

from __future__ import annotations

import pytest
import torch

from vit_adapter.ops import functional, ms_deform_attn, ms_deform_attn_reference
from vit_adapter.ops.extension import has_kernel

# Prime Q, odd B, one pixel, one column, D below and next to every vector width, many points.
AWKWARD_SIZES = {
    "prime queries": {"queries": 37, "heads": 6, "dim": 32, "shapes": ((8, 6), (4, 3), (2, 2))},
    "dim 64": {"queries": 11, "heads": 2, "dim": 64, "shapes": ((6, 8),)},
    "five levels": {
        **{"batch": 3, "queries": 5, "heads": 2, "dim": 8, "points": 3},
        "shapes": ((5, 7), (1, 1), (3, 1), (1, 4), (2, 2)),
    },
    "dim 20": {"queries": 5, "dim": 20, "points": 2, "shapes": ((4, 4), (1, 1))},
    "dim 40": {"queries": 5, "heads": 1, "dim": 40, "points": 1, "shapes": ((3, 3),)},
    "dim 256": {"batch": 1, "queries": 3, "heads": 2, "dim": 256, "points": 5},
    "dim 7, many points": {"batch": 1, "queries": 2, "heads": 2, "dim": 7, "points": 70},
    "dim 1": {"queries": 5, "heads": 1, "dim": 1},
    "all outside": {"dim": 32, "low": 1.6, "high": 3.0},
    "wide maps": {"batch": 1, "queries": 3, "dim": 16, "shapes": ((1, 300), (200, 1))},
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", AWKWARD_SIZES.values(), ids=AWKWARD_SIZES)
def test_error_is_at_most_twice_that_of_plain_pytorch(
    sizes, dtype, sample_inputs, output_and_gradients, device
):
    exact = sample_inputs(**sizes)
    batch, queries, heads = exact.attention_weights.shape[:3]
    grad_output = torch.randn(batch, queries, heads * exact.value.shape[-1], dtype=torch.float64)
    expected = output_and_gradients(ms_deform_attn_reference, exact, grad_output)
    rounded = exact.to(dtype, device)
    plain = output_and_gradients(ms_deform_attn_reference, rounded, grad_output)
    actual = output_and_gradients(ms_deform_attn, rounded, grad_output)
    resolution = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    for want, ours, theirs in zip(expected, actual, plain, strict=True):
        # Coordinates of up to 300 pixels are rounded, and in different ways.
        slack = 64 * resolution * max(1.0, want.abs().max().item())
        assert (ours - want).abs().max() <= 2 * (theirs - want).abs().max() + slack


@pytest.mark.parametrize("dtype", DTYPES)
def test_output_and_gradients_have_the_dtypes_of_their_inputs(dtype, sample_inputs, device):
    value, shapes, locations, weights = sample_inputs().to(dtype, device)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn(value, shapes, locations, weights)
    assert output.dtype == dtype
    output.sum().backward()
    for leaf in leaves:
        assert (leaf.grad.dtype, leaf.grad.shape) == (leaf.dtype, leaf.shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_locations_keep_their_precision_with_16_bit_values(dtype, device):
    # Pixel 100 + 9 / 32 of a row of 256, between a zero and a one; 16-bit locations miss it by
    # 1 / 32 (float16) and 1 / 4 pixel (bfloat16).
    value = torch.zeros(1, 256, 1, 1, device=device, dtype=dtype)
    value[0, 101] = 1
    locations = torch.tensor([100.78125 / 256, 0.5], device=device).view(1, 1, 1, 1, 1, 2)
    weights = torch.ones(1, 1, 1, 1, 1, device=device)
    assert ms_deform_attn(value, [(1, 256)], locations, weights).item() == 9 / 32


def test_16_bit_locations_are_widened(sample_inputs, device):
    value, shapes, locations, weights = sample_inputs().to(torch.bfloat16, device)
    locations, weights = locations.bfloat16(), weights.bfloat16()
    expected = ms_deform_attn(value, shapes, locations.float(), weights.float())
    assert torch.equal(ms_deform_attn(value, shapes, locations, weights), expected)


def test_shapes_without_numbers(sample_inputs):
    """Tensors on "meta" hold no numbers, and PyTorch has no autocast for them."""
    value, shapes, locations, weights = sample_inputs().to(torch.float32, torch.device("meta"))
    output = ms_deform_attn(value.requires_grad_(), shapes, locations, weights)
    output.sum().backward()
    assert output.is_meta and value.grad.shape == value.shape


LARGE_SIDE = 2049
"""With 512 channels, more than 2^31 elements: offsets in the map need 64 bits."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [33, pytest.param(LARGE_SIDE, marks=pytest.mark.cuda)])
def test_the_last_rows_of_a_map_give_what_they_give_alone(side, dtype, sample_inputs):
    device = torch.device("cuda" if side == LARGE_SIDE else "cpu")
    if side == LARGE_SIDE and torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of memory on the GPU")
    sizes = {"batch": 1, "queries": 64, "heads": 8, "dim": 64, "shapes": ((3, side),)}
    rows = sample_inputs(**sizes, low=0.2, high=0.8)
    value = torch.zeros(1, side * side, 8, 64, dtype=dtype, device=device)
    value[:, -3 * side :] = rows.value.to(value)
    locations = rows.sampling_locations.clone()
    locations[..., 1] = (3 * locations[..., 1] + side - 3) / side
    whole = rows._replace(value=value, spatial_shapes=[(side, side)], sampling_locations=locations)
    grad_output = torch.randn(1, 64, 512).to(value)

    results = []
    for value, shapes, locations, weights in (whole.to(dtype, device), rows.to(dtype, device)):
        leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
        output = ms_deform_attn(leaves[0], shapes, *leaves[1:])
        gradients = torch.autograd.grad(output, leaves, grad_output)
        gradients[1][..., 1] /= shapes[0][0]  # per pixel, not per image
        gradients[1][..., 0] /= shapes[0][1]
        results.append([output.detach(), gradients[0][:, -3 * side :], *gradients[1:]])
        assert not gradients[0][:, : -3 * side].any()
    # A location of 2,048 pixels is rounded to 1e-4 of one.
    tolerance = 1e-2 if dtype == torch.float32 else 5e-2
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dim", [32, 20])
def test_layout_does_not_matter(dim, sample_inputs, output_and_gradients, device):
    inputs = sample_inputs(dim=dim).to(torch.float32, device)
    grad_output = torch.randn(2, 7, 3 * dim)
    expected = output_and_gradients(ms_deform_attn, inputs, grad_output)

    def strided(tensor: torch.Tensor) -> torch.Tensor:  # last two dimensions transposed in memory
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)

    def misaligned(tensor: torch.Tensor) -> torch.Tensor:  # starts four bytes into its storage
        storage = torch.cat([tensor.new_zeros(1), tensor.flatten()])
        return storage[1:].view(tensor.shape)

    for layout in (strided, misaligned):

        def function(value, shapes, locations, weights, layout=layout):
            return ms_deform_attn(layout(value), shapes, layout(locations), layout(weights))

        actual = output_and_gradients(function, inputs, grad_output)
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)  # of float32 numbers


def test_expanded_gradient_is_accepted(sample_inputs, device):
    value, shapes, locations, weights = sample_inputs().to(torch.float32, device)
    value.requires_grad_()
    ms_deform_attn(value, shapes, locations, weights).sum().backward()  # strides 0
    expanded = value.grad.clone()
    value.grad = None
    output = ms_deform_attn(value, shapes, locations, weights)
    output.backward(torch.ones_like(output))
    torch.testing.assert_close(value.grad, expanded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_narrows_values_and_keeps_locations(dtype, sample_inputs, device):
    value, shapes, locations, weights = sample_inputs().to(torch.float32, device)
    locations.requires_grad_()
    with torch.autocast(device.type, dtype):
        output = ms_deform_attn(value, shapes, locations, weights)
    expected = ms_deform_attn(value.to(dtype), shapes, locations, weights)
    assert output.dtype == dtype
    assert torch.equal(output, expected)
    output.sum().backward()
    assert locations.grad.dtype == torch.float32


def test_autocast_does_not_touch_float64(sample_inputs):
    with torch.autocast("cpu", torch.bfloat16):
        assert ms_deform_attn(*sample_inputs()).dtype == torch.float64


def _replaced(inputs, **changes):
    return inputs._replace(**changes)


# Kernels write sizes in brackets and the others in parentheses.
BAD_ARGUMENTS = {
    "value rank": (
        lambda i: _replaced(i, value=i.value[0]),
        r"be \(B, S, M, D\).*[([]36, 3, 8[)\]]",
    ),
    "locations rank": (
        lambda i: _replaced(i, sampling_locations=i.sampling_locations[..., 0]),
        r"sampling_locations must be \(B, Q, M, L, P, 2\), got shape [([]2, 7, 3, 2, 4[)\]]",
    ),
    "three coordinates": (
        lambda i: _replaced(i, sampling_locations=torch.rand(2, 7, 3, 2, 4, 3)),
        r"\(B, Q, M, L, P, 2\)",
    ),
    "no level": (lambda i: _replaced(i, spatial_shapes=[]), "spatial_shapes is empty"),
    "zero height": (
        lambda i: _replaced(i, spatial_shapes=[(6, 6), (0, 3)]),
        r"positive \(H, W\), got \[\(6, 6\), \(0, 3\)\]",
    ),
    "tokens do not add up": (
        lambda i: _replaced(i, spatial_shapes=[(6, 5), (3, 3)]),
        r"hold 39 tokens in all, but value has S = 36",
    ),
    "too few levels": (
        lambda i: _replaced(i, spatial_shapes=[(6, 6)]),
        r"to fit value of shape .2, 36, 3, 8. and 1 levels, got .2, 7, 3, 2, 4, 2.",
    ),
    "batch": (lambda i: _replaced(i, value=i.value[:1]), r"= .1, 7, 3, 2, 4, 2. to fit"),
    "weights": (
        lambda i: _replaced(i, attention_weights=i.attention_weights[:, :6]),
        r"attention_weights must be .* .2, 7, 3, 2, 4..*got .2, 6, 3, 2, 4.",
    ),
    "integer value": (
        lambda i: _replaced(i, value=i.value.long()),
        r"value must be float32.*got (torch.int64|Long); convert it",
    ),
    "coarse locations": (
        lambda i: _replaced(i, sampling_locations=i.sampling_locations.float()),
        r"sampling_locations must be float64 to go with value of torch.float64, got torch.float32",
    ),
    "fine weights": (
        lambda i: i.to(torch.float32)._replace(attention_weights=i.attention_weights),
        r"attention_weights must be float32 .* got torch.float64",
    ),
    "device": (
        lambda i: _replaced(i, sampling_locations=i.sampling_locations.to("meta")),
        r"sampling_locations is on meta, but value is on cpu",
    ),
}


@pytest.mark.parametrize("backend", ["kernel", "reference"])
@pytest.mark.parametrize(("spoil", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_named(spoil, message, backend, sample_inputs, monkeypatch):
    if backend == "kernel" and not has_kernel("cpu"):
        pytest.skip("no CPU kernel is built here")
    monkeypatch.setattr(functional, "select_backend", lambda device_type: backend)
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(*spoil(sample_inputs()))
