"""Grids, reference points, and tokens as maps."""

import weakref

import pytest
import torch

from vit_adapter.layers import kept, pyramid
from vit_adapter.layers.pyramid import (
    PyramidGeometry,
    crop_map,
    inverse_grid_sizes,
    map_to_tokens,
    num_positions,
    pad_to_multiple,
    reference_points,
    resize_map,
    split_levels,
    tokens_to_map,
)

CPU = torch.device("cpu")


def test_geometry_of_an_image() -> None:
    geometry = PyramidGeometry.from_image_size(64, 96)
    assert geometry.prior_shapes == ((8, 12), (4, 6), (2, 3))
    assert geometry.vit_shape == (4, 6)
    assert num_positions(geometry.prior_shapes) == 126
    coarse = PyramidGeometry.from_image_size(64, 96, prior_strides=[16, 32])
    assert (coarse.prior_strides, coarse.prior_shapes) == ((16, 32), ((4, 6), (2, 3)))
    assert coarse.vit_shape == (4, 6)


@pytest.mark.parametrize(("height", "width"), [(0, 32), (64, 80), (33, 64), (-32, 32)])
def test_geometry_refuses_sides_that_do_not_fit(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of 32, got {height} x {width}"):
        PyramidGeometry.from_image_size(height, width)


def test_padding_is_zero_and_at_the_bottom_right() -> None:
    images = torch.ones(1, 3, 33, 64)
    padded = pad_to_multiple(images, 32)
    assert padded.shape == (1, 3, 64, 64)
    assert torch.equal(padded[..., :33, :], images)
    assert padded[..., 33:, :].abs().sum() == 0


def test_padding_copies_nothing_where_none_is_needed() -> None:
    images = torch.ones(1, 3, 32, 64)
    assert pad_to_multiple(images, 32) is images


def test_crop_keeps_partly_covered_cells() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(crop_map(features, (9, 16), 8), features[..., :2, :2])
    assert crop_map(features, (32, 25), 8) is features


def test_levels_are_views_in_order() -> None:
    tokens = torch.arange(2 * 7 * 3.0).view(2, 7, 3)
    first, second = split_levels(tokens, [(2, 3), (1, 1)])
    assert torch.equal(first, tokens[:, :6])
    assert torch.equal(second, tokens[:, 6:])
    assert first.data_ptr() == tokens.data_ptr()


def test_levels_must_add_up() -> None:
    with pytest.raises(ValueError, match="hold 6 tokens, but the tensor has 7"):
        split_levels(torch.zeros(1, 7, 3), [(2, 3)])


def test_tokens_and_maps_share_memory_both_ways() -> None:
    tokens = torch.arange(2 * 6 * 4.0).view(2, 6, 4)
    features = tokens_to_map(tokens, (2, 3))
    assert features.shape == (2, 4, 2, 3)
    assert features[1, 2, 1, 0] == tokens[1, 3, 2]
    assert features.is_contiguous(memory_format=torch.channels_last)
    back = map_to_tokens(features)
    assert torch.equal(back, tokens)
    assert back.data_ptr() == features.data_ptr() == tokens.data_ptr()


def test_reference_points_are_cell_centres_as_x_y() -> None:
    points = reference_points([(1, 2), (2, 1)], device=CPU, dtype=torch.float64)
    expected = [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]
    assert points.shape == (1, 4, 1, 2)
    assert points[0, :, 0].tolist() == expected


def test_inverse_sizes_are_width_first() -> None:
    inverses = inverse_grid_sizes([(2, 4), (5, 10)], device=CPU, dtype=torch.float64)
    assert inverses.tolist() == [[0.25, 0.5], [0.1, 0.2]]


def test_constants_are_made_once_per_size_and_dtype() -> None:
    shapes = [(3, 5)]
    first = reference_points(shapes, device=CPU, dtype=torch.float32)
    assert reference_points(tuple(shapes), device=CPU, dtype=torch.float32) is first
    assert reference_points(shapes, device=CPU, dtype=torch.float64).dtype == torch.float64


def test_the_number_of_constants_is_limited() -> None:
    for height in range(1, 2 * pyramid._MAX_CACHED):
        reference_points([(height, 1)], device=CPU, dtype=torch.float32)
    assert len(pyramid._constants) <= pyramid._MAX_CACHED


def test_constants_that_a_cuda_graph_reads_are_never_freed(monkeypatch) -> None:
    shapes = [(5, 19)]
    points = weakref.ref(reference_points(shapes, device=CPU, dtype=torch.float32))
    with monkeypatch.context() as patch:
        patch.setattr(kept, "_captured", {})
        patch.setattr(kept, "is_captured", lambda tensor: True)
        reference_points(shapes, device=CPU, dtype=torch.float32)
        pyramid._constants.clear()
        assert points() is not None
    assert points() is None


def test_constants_made_in_inference_mode_work_in_training() -> None:
    shapes = [(7, 11)]
    with torch.inference_mode():
        points = reference_points(shapes, device=CPU, dtype=torch.float32)
    weight = torch.ones((), requires_grad=True)
    (points * weight).sum().backward()
    assert weight.grad == points.sum()


def test_tracing_leaves_no_fake_constants_behind() -> None:
    from torch._subclasses import FakeTensorMode

    shapes = [(13, 17)]
    with FakeTensorMode():
        reference_points(shapes, device=CPU, dtype=torch.float32)
    points = reference_points(shapes, device=CPU, dtype=torch.float32)
    assert type(points) is torch.Tensor
    assert points.mean().item() == pytest.approx(0.5)


def test_resized_map() -> None:
    features = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    assert resize_map(features, (4, 6)) is features
    cells = features.view(2, 3, 2, 2, 3, 2)  # rows, columns of cells with 2 x 2 positions each
    torch.testing.assert_close(resize_map(features, (2, 3)), cells.mean((3, 5)))
    doubled = resize_map(features, (8, 12))
    assert doubled.shape == (2, 3, 8, 12)
    between = 0.75 * features[..., 0, 1] + 0.25 * features[..., 0, 2]
    torch.testing.assert_close(doubled[..., 0, 3], between)
