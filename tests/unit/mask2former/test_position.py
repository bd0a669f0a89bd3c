"""Sine positions, compared with the formula cell by cell."""

import math

import pytest
import torch

from vit_adapter.mask2former.position import sine_positions

CPU = torch.device("cpu")


def test_equals_the_formula() -> None:
    height, width, channels = 3, 5, 8
    (positions,) = sine_positions([(height, width)], channels, device=CPU, dtype=torch.float64)
    half = channels // 2
    for row in range(height):
        for column in range(width):
            expected = []
            for cell, side in ((row, height), (column, width)):
                angle = (cell + 1) / (side + 1e-6) * 2 * math.pi
                for i in range(0, half, 2):
                    scaled = angle / 10000 ** (i / half)
                    expected += [math.sin(scaled), math.cos(scaled)]
            actual = positions[0, row * width + column]
            assert actual.tolist() == pytest.approx(expected, abs=1e-12)


def test_levels_do_not_depend_on_each_other() -> None:
    shapes = [(2, 3), (4, 6), (5, 1)]
    together = sine_positions(shapes, 16, device=CPU, dtype=torch.float32)
    for shape, positions in zip(shapes, together, strict=True):
        (alone,) = sine_positions([shape], 16, device=CPU, dtype=torch.float32)
        assert torch.equal(positions, alone)


def test_tables_of_different_widths_are_distinct() -> None:
    for channels in (8, 16, 8):
        (positions,) = sine_positions([(2, 2)], channels, device=CPU, dtype=torch.float32)
        assert positions.shape == (1, 4, channels)
