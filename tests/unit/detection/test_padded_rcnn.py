"""Padding of the training images."""

from typing import Any

import pytest
import torch
from torch import nn

from vit_adapter.detection import PaddedRCNN


class Bare(nn.Module):
    """A backbone without outputs."""

    size_divisibility = 32
    padding_constraints = {"size_divisibility": 32}


def make(train_size: Any) -> PaddedRCNN:
    return PaddedRCNN(
        train_size=train_size,
        backbone=Bare(),
        proposal_generator=nn.Identity(),
        roi_heads=nn.Identity(),
        pixel_mean=[100.0, 110.0, 120.0],
        pixel_std=[50.0, 50.0, 50.0],
    )


def inputs(*sizes: tuple[int, int]) -> list[dict[str, torch.Tensor]]:
    return [{"image": torch.full((3, *size), 200, dtype=torch.uint8)} for size in sizes]


def test_training_images_have_one_size_and_keep_their_own() -> None:
    model = make([96, 160]).train()
    images = model.preprocess_image(inputs((40, 50), (64, 30)))
    assert images.tensor.shape == (2, 3, 96, 160)
    assert images.image_sizes == [(40, 50), (64, 30)]
    first = images.tensor[0]
    expected = torch.tensor([2.0, 1.8, 1.6])[:, None, None].expand(3, 40, 50)
    torch.testing.assert_close(first[:, :40, :50], expected)
    assert first.count_nonzero() == expected.numel()  # zeros after normalisation


def test_larger_images_and_test_images_are_padded_as_usual() -> None:
    model = make((96, 160))
    assert model.train().preprocess_image(inputs((100, 50))).tensor.shape == (1, 3, 128, 160)
    assert model.eval().preprocess_image(inputs((40, 50))).tensor.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("size", [[96], [96, 0], [1, 2, 3]])
def test_sizes_that_are_refused(size: list[int]) -> None:
    with pytest.raises(ValueError, match=r"train_size must be \(height, width\)"):
        make(size)
