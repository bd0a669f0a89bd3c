"""The two plain-PyTorch formulations, compared with numbers worked out by hand and slow loops."""

from __future__ import annotations

import pytest
import torch

from vit_adapter.ops import ms_deform_attn, ms_deform_attn_reference
from vit_adapter.ops.reference import ms_deform_attn_embedding_bag, ms_deform_attn_gather

FUNCTIONS = [
    ms_deform_attn_reference,
    ms_deform_attn_embedding_bag,
    ms_deform_attn_gather,
    ms_deform_attn,
]
NAN, INF = float("nan"), float("inf")

# The map that every literal case samples, 1 + 4 * y + x:
#
#      x  0   1   2   3
#  y 0    1   2   3   4      the location (x, y) in [0, 1] is the pixel (4 x - 0.5, 4 y - 0.5)
#    1    5   6   7   8
#    2    9  10  11  12
#    3   13  14  15  16
LITERAL_CASES = {
    "pixel centre": ((0.125, 0.125), 1.0),
    "another centre": ((0.875, 0.625), 12.0),
    "between two columns": ((0.25, 0.125), 1.5),
    "between two rows": ((0.125, 0.25), 3.0),
    "middle of four": ((0.5, 0.5), 8.5),  # (6 + 7 + 10 + 11) / 4
    "a quarter right": ((0.1875, 0.125), 1.25),
    "corner of the map": ((0.0, 0.0), 0.25),  # 1 / 4, the rest is zero padding
    "other corner": ((1.0, 1.0), 4.0),  # 16 / 4
    "left edge": ((0.0, 0.5), 3.5),  # (5 + 9) / 4
    "just outside": ((-0.1, 0.125), 0.1),  # pixel x = -0.9
    "outside": ((-0.2, 0.5), 0.0),
    "far outside": ((7.0, -1e30), 0.0),
    "not a number": ((NAN, 0.5), 0.0),
    "infinite": ((0.5, INF), 0.0),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("location", "expected"), LITERAL_CASES.values(), ids=LITERAL_CASES)
def test_literal_samples(function, dtype, location, expected, device):
    value = torch.arange(1.0, 17.0, dtype=dtype, device=device).view(1, 16, 1, 1)
    locations = torch.tensor(location, dtype=dtype, device=device).view(1, 1, 1, 1, 1, 2)
    weights = torch.ones(1, 1, 1, 1, 1, dtype=dtype, device=device)
    output = function(value, [(4, 4)], locations, weights)
    assert output.shape == (1, 1, 1)
    assert output.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_literal_gradients(function, device):
    value = torch.arange(1.0, 17.0, device=device).view(1, 16, 1, 1).requires_grad_()
    # Pixel (1.25, 1.5), between 6 and 7 above, 10 and 11 below.
    locations = torch.tensor([0.4375, 0.5], device=device).view(1, 1, 1, 1, 1, 2).requires_grad_()
    weights = torch.full((1, 1, 1, 1, 1), 0.5, device=device, requires_grad=True)
    output = function(value, [(4, 4)], locations, weights)
    output.backward(torch.full((1, 1, 1), 2.0, device=device))
    expected = torch.zeros(4, 4)
    # Bilinear weights (0.75, 0.25) x (0.5, 0.5), times attention 0.5, times gradient 2.
    expected[1:3, 1:3] = torch.tensor([[0.375, 0.125], [0.375, 0.125]])
    torch.testing.assert_close(value.grad.cpu().view(4, 4), expected)
    # One pixel is 1 / 4 of the map: slopes 1 and 4 per pixel are 4 and 16 per unit.
    torch.testing.assert_close(locations.grad.cpu().flatten(), torch.tensor([4.0, 16.0]))
    assert weights.grad.item() == pytest.approx(2 * 8.25)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("location", [(NAN, 0.5), (0.5, NAN), (INF, 0.5), (0.5, -INF), (9.0, 0.5)])
def test_points_outside_or_not_finite_get_no_gradient(function, location, device):
    value = torch.ones(1, 16, 1, 3, device=device, requires_grad=True)
    locations = torch.tensor(location, device=device).view(1, 1, 1, 1, 1, 2).requires_grad_()
    weights = torch.ones(1, 1, 1, 1, 1, device=device, requires_grad=True)
    function(value, [(4, 4)], locations, weights).sum().backward()
    for tensor in (value, locations, weights):
        assert tensor.grad.abs().max() == 0


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"batch": 3, "queries": 5, "heads": 2, "dim": 5, "points": 3, "shapes": ((1, 1), (2, 7))},
        {"batch": 1, "heads": 1, "dim": 1, "points": 1, "shapes": ((4, 4),)},
    ],
)
def test_equals_the_equation(function, sizes, sample_inputs, loop_oracle, output_and_gradients):
    inputs = sample_inputs(**sizes)
    batch, queries, heads = inputs.attention_weights.shape[:3]
    grad_output = torch.randn(batch, queries, heads * inputs.value.shape[-1], dtype=torch.float64)
    expected = output_and_gradients(loop_oracle, inputs, grad_output)
    actual = output_and_gradients(function, inputs, grad_output)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_constant_value_gives_that_constant(function, sample_inputs, device):
    inputs = sample_inputs(low=0.25, high=0.75).to(torch.float32, device)
    output = function(torch.full_like(inputs.value, 3.0), *inputs[1:])
    torch.testing.assert_close(output, torch.full_like(output, 3.0))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_weights_on_one_level_ignore_the_others(function, sample_inputs):
    inputs = sample_inputs()
    weights = inputs.attention_weights.clone()
    weights[:, :, :, 0] = 0
    both = function(inputs.value, inputs.spatial_shapes, inputs.sampling_locations, weights)
    height, width = inputs.spatial_shapes[0]
    second = function(
        inputs.value[:, height * width :],
        inputs.spatial_shapes[1:],
        inputs.sampling_locations[:, :, :, 1:],
        weights[:, :, :, 1:],
    )
    torch.testing.assert_close(both, second)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_images_of_a_batch_are_independent(function, sample_inputs):
    value, shapes, locations, weights = sample_inputs(batch=3)
    together = function(value, shapes, locations, weights)
    for b in range(3):
        image = slice(b, b + 1)
        alone = function(value[image], shapes, locations[image], weights[image])
        torch.testing.assert_close(together[image], alone)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("empty", [{"batch": 0}, {"queries": 0}, {"points": 0}])
def test_empty_inputs_give_empty_or_zero_results(function, empty, sample_inputs, device):
    value, shapes, locations, weights = sample_inputs(**empty).to(torch.float32, device)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    output = function(value, shapes, locations, weights)
    assert output.shape == (value.shape[0], locations.shape[1], 24)
    assert not output.any()
    output.sum().backward()
    for leaf in leaves:
        assert leaf.grad.shape == leaf.shape
        assert not leaf.grad.any()
