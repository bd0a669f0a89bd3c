"""Augmentations of float images with any number of channels."""

import numpy as np
import pytest
from detectron2.data import transforms as T

from vit_adapter.data import (
    coco_3x_train,
    coco_lsj_train,
    flip_and_resize,
    large_scale_jitter,
    semantic_test,
)
from vit_adapter.data.aug_input import AugInput
from vit_adapter.data.instances.augmentation import PadToSquare
from vit_adapter.data.seeds import seeded

RECIPES = {
    "resize": flip_and_resize([40]),
    "3x": coco_3x_train(),
    "lsj": coco_lsj_train(96),
    "mask2former": large_scale_jitter(96),
    "semantic": semantic_test(scale=(100, 50)),
}


def augment(image: np.ndarray, recipe: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(image.shape[0] * image.shape[1], dtype=np.uint8).reshape(image.shape[:2])
    given = AugInput(image, sem_seg=labels)
    seeded(seed)(T.AugmentationList(RECIPES[recipe]))(given)
    return given.image, given.sem_seg


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_floats_are_treated_as_8_bits_up_to_rounding(recipe: str, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    expected, labels = augment(rgb, recipe, seed)
    seven = np.concatenate([rgb, rgb, rgb[..., :1]], axis=2).astype(np.float32)
    found, found_labels = augment(seven, recipe, seed)
    assert found.dtype == np.float32 and found.shape == (*expected.shape[:2], 7)
    assert np.array_equal(found_labels, labels)
    padded = (expected == 128).all(axis=2)  # filled with the mean instead
    assert np.abs(found[..., 3:6] - expected)[~padded].max() <= 2  # Pillow rounds twice
    assert np.array_equal(found[..., :3], found[..., 3:6])


def test_padding_is_the_mean_of_each_channel() -> None:
    image = np.stack([np.full((4, 6), 1000.0), np.arange(24.0).reshape(4, 6)], -1)
    given = AugInput(image.astype(np.float32))
    PadToSquare(8)(given)
    assert given.image.shape == (8, 8, 2) and given.image.dtype == np.float32
    assert np.array_equal(given.image[:4, :6], image)
    assert (given.image[4:] == [1000.0, 11.5]).all() and (given.image[:, 6:, 1] == 11.5).all()


def test_images_of_8_bits_are_detectron2s(tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    own, theirs = AugInput(image), T.AugInput(image)
    resize = T.ResizeShortestEdge(24)
    resize(own), resize(theirs)
    assert own.image.dtype == np.uint8 and np.array_equal(own.image, theirs.image)
