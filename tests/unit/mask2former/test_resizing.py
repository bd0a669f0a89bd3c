"""Masks are resized to the output, never more at once than there is memory for."""

import pytest
import torch
import torch.nn.functional as F

from vit_adapter.mask2former.resizing import MaskResizer


def test_resizes_to_the_batch_crops_and_resizes_to_the_output() -> None:
    maps = torch.randn(3, 16, 24)
    padded = F.interpolate(maps[None], (64, 96), mode="bilinear")
    expected = F.interpolate(padded[:, :, :50, :90], (100, 70), mode="bilinear")[0]
    resize = MaskResizer((64, 96), (50, 90), (100, 70))
    torch.testing.assert_close(resize(maps), expected)
    resize = MaskResizer((64, 96), (50, 90), (50, 90))
    assert torch.equal(resize(maps), padded[0, :, :50, :90])
    assert resize(maps[:0]).shape == (0, 50, 90)


def test_one_step_to_the_output_unless_there_is_padding() -> None:
    maps = torch.randn(3, 16, 24)
    resize = MaskResizer((64, 96), (64, 96), (50, 70), in_one_step=True)
    assert torch.equal(resize(maps), F.interpolate(maps[None], (50, 70), mode="bilinear")[0])
    sizes = (64, 96), (50, 90), (100, 70)
    assert torch.equal(MaskResizer(*sizes, in_one_step=True)(maps), MaskResizer(*sizes)(maps))


@pytest.mark.parametrize(
    ("padded", "output", "lengths"),
    [
        ((10, 10), (5, 5), [2, 2, 1]),  # 200 pixels are two masks of the batch's size
        ((10, 10), (10, 5), [2, 2, 1]),
        ((10, 10), (20, 40), [1] * 5),  # at least one
        ((5, 5), (5, 8), [5]),
    ],
)
def test_parts(padded: tuple, output: tuple, lengths: list[int]) -> None:
    maps = torch.randn(5, 4, 4)
    resize = MaskResizer(padded, padded, output, max_pixels=200)
    parts = list(resize.in_parts(maps))
    assert [len(part) for _, part in parts] == lengths
    assert [first for first, _ in parts] == [sum(lengths[:i]) for i in range(len(lengths))]
    torch.testing.assert_close(torch.cat([part for _, part in parts]), resize(maps))


def test_no_maps_are_one_empty_part() -> None:
    ((first, part),) = MaskResizer((8, 8), (8, 8), (8, 8)).in_parts(torch.zeros(0, 2, 2))
    assert first == 0 and part.shape == (0, 8, 8)
