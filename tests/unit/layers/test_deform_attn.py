"""Multi-scale deformable attention as a module."""

import math

import pytest
import torch
from torch import Tensor

from vit_adapter.layers import MSDeformAttn, reference_points

SHAPES = [(3, 4), (2, 2)]


def make_module(**changes: float) -> MSDeformAttn:
    arguments = {"num_heads": 2, "num_levels": 2, "num_points": 3, "deform_ratio": 0.5, **changes}
    module = MSDeformAttn(8, **arguments).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return module


def make_inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    query = torch.randn(batch, 16, 8, dtype=torch.float64)
    value = torch.randn(batch, 16, 8, dtype=torch.float64)
    points = reference_points(SHAPES, device=query.device, dtype=query.dtype)
    return query, points, value


def sample(level: Tensor, x: float, y: float) -> Tensor:
    """Bilinear sample of (H, W, D) at (x, y) in [0, 1]; zero outside."""
    height, width, channels = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    result = torch.zeros(channels, dtype=level.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                result = result + (1 - abs(row - i)) * (1 - abs(column - j)) * level[i, j]
    return result


def slow_attention(module: MSDeformAttn, query: Tensor, points: Tensor, value: Tensor) -> Tensor:
    """One query of one image at a time, written from the definition."""
    heads, num_points = module.num_heads, module.num_points
    values = module.value_proj(value).view(value.shape[0], value.shape[1], heads, -1)
    offsets = module.sampling_offsets(query).view(*query.shape[:2], heads, 2, num_points, 2)
    weights = module.attention_weights(query).view(*query.shape[:2], heads, -1).softmax(-1)
    outputs = torch.zeros(*query.shape[:2], heads, values.shape[-1], dtype=query.dtype)
    for b, q, m in torch.cartesian_prod(*map(torch.arange, outputs.shape[:3])).tolist():
        start = 0
        for level, (height, width) in enumerate(SHAPES):
            grid = values[b, start : start + height * width, m].view(height, width, -1)
            start += height * width
            for p in range(num_points):
                x, y = points[0, q, 0].tolist()
                dx, dy = offsets[b, q, m, level, p].tolist()
                weight = weights[b, q, m, level * num_points + p]
                outputs[b, q, m] += weight * sample(grid, x + dx / width, y + dy / height)
    return module.output_proj(outputs.flatten(2))


def test_equals_the_definition() -> None:
    torch.manual_seed(0)
    module, (query, points, value) = make_module(), make_inputs()
    with torch.no_grad():
        expected = slow_attention(module, query, points, value)
        torch.testing.assert_close(module(query, points, value, SHAPES), expected)


@torch.no_grad()
def test_merged_weights_follow_the_parameters() -> None:
    module, inputs = make_module(), make_inputs()
    for parameter in (
        *module.sampling_offsets.parameters(),
        *module.attention_weights.parameters(),
    ):
        for _ in range(2):  # the second call may read what the first one kept
            torch.testing.assert_close(module(*inputs, SHAPES), slow_attention(module, *inputs))
        parameter.mul_(1.5)
    torch.testing.assert_close(module(*inputs, SHAPES), slow_attention(module, *inputs))


def test_points_may_differ_by_image_and_level() -> None:
    module, (query, points, value) = make_module(), make_inputs()
    expected = module(query, points, value, SHAPES)
    torch.testing.assert_close(module(query, points.expand(2, -1, 2, -1), value, SHAPES), expected)


def test_gradients_reach_everything() -> None:
    module, (query, points, value) = make_module(), make_inputs()
    query.requires_grad_()
    value.requires_grad_()
    module(query, points, value, SHAPES).square().sum().backward()
    for tensor in (query, value, *module.parameters()):
        assert tensor.grad.abs().sum() > 0


def test_half_precision_is_close() -> None:
    torch.manual_seed(0)
    module, (query, points, value) = make_module().float(), make_inputs()
    query, points, value = query.float(), points.float(), value.float()
    with torch.no_grad():
        expected = module(query, points, value, SHAPES)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under_autocast = module(query, points, value, SHAPES)
        cast = module.bfloat16()(query.bfloat16(), points, value.bfloat16(), SHAPES)
    assert under_autocast.dtype == cast.dtype == torch.bfloat16
    for actual in (under_autocast, cast):
        assert (actual - expected).norm() < 0.1 * expected.norm()


def test_starts_by_sampling_along_one_ray_per_head() -> None:
    module = MSDeformAttn(8, num_heads=4, num_levels=1, num_points=2)
    offsets = module.sampling_offsets.bias.view(4, 2, 2)
    rays = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(offsets[:, 0], rays, atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[:, 1], 2 * rays, atol=1e-6, rtol=0)
    for layer in (module.sampling_offsets.weight, module.attention_weights.weight):
        assert layer.abs().sum() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "multiple of the 3 deformable heads, got 8 [*] 0.5 = 4"),
        ({"deform_ratio": 0.0}, "got 8 [*] 0.0 = 0"),
        ({"num_heads": 0}, "must be at least 1, got 8, 0, 2, 3"),
        ({"num_points": 0}, "must be at least 1, got 8, 2, 2, 0"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(**changes)


def test_number_of_levels_is_checked() -> None:
    module, (query, points, value) = make_module(), make_inputs()
    with pytest.raises(ValueError, match=r"expected 2 levels, got spatial_shapes \[\(4, 4\)\]"):
        module(query, points, value, [(4, 4)])
