"""Which shapes of images an exported graph accepts."""

import pytest

from vit_adapter.config.errors import UsageError
from vit_adapter.export.random_images import EIGHT_BITS
from vit_adapter.export.shapes import ImageShapes

RGB = (EIGHT_BITS,) * 3


def test_checks_use_a_second_batch_and_a_second_size() -> None:
    fixed = ImageShapes(2, 64, 96)
    assert [tuple(images.shape) for images in fixed.for_checks()] == [(2, 3, 64, 96)]
    shapes = ImageShapes(2, 64, 96, dynamic_batch=True, dynamic_size=True)
    assert [tuple(images.shape) for images in shapes.for_checks()] == [
        (2, 3, 64, 96),
        (1, 3, 96, 160),
        (3, 3, 64, 96),
    ]


def test_each_channel_has_its_range() -> None:
    images = ImageShapes(1, 40, 50, ranges=((0, 255), (-2, -1))).example()
    assert images.shape == (1, 2, 40, 50)
    assert images[:, 0].min() >= 0 and 200 < images[:, 0].max() <= 255
    assert images[:, 1].min() >= -2 and -1.2 < images[:, 1].max() <= -1


def test_example_has_two_images_if_their_number_varies() -> None:
    assert len(ImageShapes(1, 64, 64, dynamic_batch=True).example()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 64, 64), "must be at least 1"),
        ((1, 70, 64, RGB, False, True), "multiples of 32 from 64 to 8192 pixels, got 70 x 64"),
        ((1, 32, 64, RGB, False, True), "got 32 x 64"),
        ((1, 96, 128, RGB, False, True, 160), "from 160 to 8192 pixels, got 96 x 128"),
    ],
)
def test_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageShapes(*arguments)


def test_size_that_holds_an_image() -> None:
    fixed = ImageShapes(1, 80, 100)
    assert fixed.accepted_size(70, 100) == (80, 100)
    with pytest.raises(UsageError, match="81 x 20 pixels .* does not fit into .* 80 x 100"):
        fixed.accepted_size(81, 20)
    assert ImageShapes(1, 64, 64, dynamic_size=True).accepted_size(70, 20) == (96, 64)
    pyramid = ImageShapes(1, 160, 160, dynamic_size=True, shortest_side=160)
    assert pyramid.accepted_size(170, 20) == (192, 160)


def test_dynamic_sides_begin_at_the_shortest() -> None:
    shapes = ImageShapes(1, 160, 160, dynamic_size=True, shortest_side=160)
    rows, columns = (shapes.dynamic_dimensions()[number].root for number in (2, 3))
    assert (rows.min, columns.min, rows.max) == (5, 5, 256)
