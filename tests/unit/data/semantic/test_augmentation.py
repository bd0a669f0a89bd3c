"""Sizes, crops and colours of the segmentors' augmentations."""

import colorsys

import numpy as np
import pytest
from detectron2.data import transforms as T

from vit_adapter.data import semantic_test, semantic_train
from vit_adapter.data.semantic.augmentation import (
    PhotometricDistortion,
    PhotometricTransform,
    ResizeToMultiple,
    ResizeToScale,
)

NOTHING = dict(brightness=0.0, contrast=1.0, saturation=1.0, hue=0, contrast_last=False)


def augment(
    augmentations: list, image: np.ndarray, sem_seg: np.ndarray | None = None
) -> T.AugInput:
    aug_input = T.AugInput(image, sem_seg=sem_seg)
    T.AugmentationList(augmentations)(aug_input)
    return aug_input


def colours(height: int = 12, width: int = 14) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("scale", "size", "expected"),
    [
        ((2048, 512), (683, 512), (683, 512)),  # the short side decides
        ((2048, 512), (256, 1000), (512, 2000)),
        ((2048, 512), (100, 1000), (205, 2048)),  # the long side decides: 204.8 is rounded
        ((512, 2048), (1000, 100), (2048, 205)),  # upright images too; in any order
        ((520, 520), (375, 500), (390, 520)),  # Pascal Context: both limits are the same
        ((2048, 1024), (1024, 2048), (1024, 2048)),
        ((4, 2), (1, 100), (1, 4)),  # never less than a pixel
    ],
)
def test_size_of_a_scale(scale: tuple, size: tuple, expected: tuple) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert augment([ResizeToScale(scale=scale)], image).image.shape[:2] == expected


def test_ratios_are_uniform_and_limits_are_rounded_down_to_pixels() -> None:
    resize = ResizeToScale(scale=(400, 100), ratio_range=(0.5, 2.0))
    np.random.seed(0)
    heights = [resize.get_transform(np.zeros((10, 20, 3))).new_h for _ in range(3000)]
    assert (min(heights), max(heights)) == (50, 199)
    assert np.mean(heights) == pytest.approx(125, abs=2)
    np.random.seed(0)
    ratios = np.random.uniform(0.5, 2.0, 3000)
    assert heights == [int(100 * ratio) for ratio in ratios]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(scale=(512,)), "two lengths"),
        (dict(scale=(512, 0)), "two lengths"),
        (dict(scale=(4, 2), ratio_range=(0.0, 1.0)), "above 0"),
        (dict(scale=(4, 2), ratio_range=(2.0, 1.0)), "above 0"),
    ],
)
def test_impossible_scales(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResizeToScale(**arguments)


@pytest.mark.parametrize(
    ("size", "divisor", "expected"),
    [
        ((512, 683), 32, (512, 704)),
        ((1, 33), 32, (32, 64)),
        ((96, 64), 32, (96, 64)),
        ((5, 7), 1, (5, 7)),
    ],
)
def test_multiples(size: tuple, divisor: int, expected: tuple) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert augment([ResizeToMultiple(divisor)], image).image.shape[:2] == expected
    with pytest.raises(ValueError, match="at least 1"):
        ResizeToMultiple(0)


def test_testing_keeps_the_ratio_and_then_stretches() -> None:
    image = np.zeros((500, 667, 3), np.uint8)
    assert augment(semantic_test(scale=(2048, 512)), image).image.shape[:2] == (512, 704)
    whole = augment(semantic_test(scale=(2048, 512), several_scales=True), image)
    assert whole.image is image
    unstretched = augment(semantic_test(scale=(2048, 512), size_divisor=1), image)
    assert unstretched.image.shape[:2] == (512, 683)


def test_training_does_not_crop_beyond_the_image() -> None:
    pipeline = semantic_train(scale=(2048, 512), crop_size=(512, 512))
    np.random.seed(0)
    sizes = set()
    for _ in range(12):
        result = augment(pipeline, colours(50, 60), np.zeros((50, 60), np.uint8))
        assert result.image.shape[:2] == result.sem_seg.shape
        assert max(result.sem_seg.shape) <= 512
        sizes.add(result.sem_seg.shape)
    assert len(sizes) > 3 and any(min(size) < 512 for size in sizes)


def test_labels_follow_the_image() -> None:
    """Red encodes the class, so image and labels must agree after all steps except colours."""
    sem_seg = np.repeat(np.arange(4, dtype=np.uint8), 20)[None].repeat(80, axis=0)
    image = np.stack([sem_seg * 60] * 3, axis=-1)
    pipeline = semantic_train(scale=(160, 80), crop_size=(48, 48))[:3]
    np.random.seed(0)
    for _ in range(10):
        result = augment(pipeline, image, sem_seg)
        agree = np.abs(result.image[..., 0].astype(int) - result.sem_seg.astype(int) * 60) < 30
        assert agree.mean() > 0.9


def test_crops_avoid_a_class_that_fills_them() -> None:
    """One class fills 15/16 of the image; a crop without the corner is drawn again."""
    sem_seg = np.zeros((64, 64), np.uint8)
    sem_seg[:16, :16] = 1
    sem_seg[:16, 16:32] = 255  # does not count
    crop = semantic_train(scale=(64, 64), crop_size=(24, 24))[1]
    np.random.seed(0)
    accepted = 0
    for _ in range(300):
        part = crop.get_transform(sem_seg, sem_seg).apply_segmentation(sem_seg)
        counts = np.bincount(part[part != 255], minlength=2)
        accepted += counts.min() > 0 and counts.max() < 0.75 * counts.sum()
    everywhere = np.lib.stride_tricks.sliding_window_view(sem_seg, (24, 24))
    zeros, ones = (everywhere == 0).sum((2, 3)), (everywhere == 1).sum((2, 3))
    good = (ones > 0) & (zeros > 0) & (np.maximum(zeros, ones) < 0.75 * (zeros + ones))
    expected = 1 - (1 - good.mean()) ** 10  # ten draws
    assert accepted / 300 == pytest.approx(expected, abs=0.08)
    assert accepted / 300 > 2 * good.mean()


@pytest.mark.parametrize("labels", [0, 255])
def test_crops_of_one_class_or_of_nothing_are_used_in_the_end(labels: int) -> None:
    crop = semantic_train(scale=(64, 64), crop_size=(24, 24))[1]
    sem_seg = np.full((64, 64), labels, np.uint8)
    assert crop.get_transform(sem_seg, sem_seg).apply_segmentation(sem_seg).shape == (24, 24)


def test_brightness_and_contrast_are_rounded_down() -> None:
    image = np.array([[[0, 100, 255]]], np.uint8)
    brighter = PhotometricTransform(**{**NOTHING, "brightness": 20.7}).apply_image(image)
    assert brighter.tolist() == [[[20, 120, 255]]]
    darker = PhotometricTransform(**{**NOTHING, "brightness": -20.7}).apply_image(image)
    assert darker.tolist() == [[[0, 79, 234]]]
    for last in (False, True):
        flatter = PhotometricTransform(**{**NOTHING, "contrast": 1.27, "contrast_last": last})
        assert flatter.apply_image(image).tolist() == [[[0, 127, 255]]]


def test_contrast_is_first_or_last() -> None:
    """Halving the saturation turns 0 into 100 next to 200, so the order of the factors matters."""
    image = np.array([[[200, 0, 0]]], np.uint8)
    changes = {**NOTHING, "contrast": 1.5, "saturation": 0.5}
    first = PhotometricTransform(**{**changes, "contrast_last": False}).apply_image(image)
    last = PhotometricTransform(**{**changes, "contrast_last": True}).apply_image(image)
    assert np.abs(first[0, 0].astype(int) - [255, 128, 128]).max() <= 2  # 300 was cut to 255
    assert np.abs(last[0, 0].astype(int) - [255, 150, 150]).max() <= 2


@pytest.mark.parametrize(
    ("saturation", "hue"), [(0.5, 0), (1.5, 0), (1.0, 17), (1.0, -18), (0.7, 9)]
)
def test_saturation_and_hue(saturation: float, hue: int) -> None:
    image = colours()
    changed = PhotometricTransform(**{**NOTHING, "saturation": saturation, "hue": hue})
    found = changed.apply_image(image).astype(int)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            h, s, v = colorsys.rgb_to_hsv(*(image[row, column] / 255.0))
            rgb = colorsys.hsv_to_rgb((h + hue / 180) % 1.0, min(1.0, s * saturation), v)
            # 8 bits hold the hue in steps of 2 degrees, which is up to 255 / 60 of a value.
            assert np.abs(found[row, column] - np.multiply(rgb, 255)).max() <= 8


def test_colours_change_and_labels_do_not() -> None:
    image, sem_seg = colours(), np.arange(168, dtype=np.uint8).reshape(12, 14)
    before = image.copy()
    np.random.seed(0)
    results = [augment([PhotometricDistortion()], image, sem_seg) for _ in range(200)]
    assert np.array_equal(image, before)
    assert all(np.array_equal(result.sem_seg, sem_seg) for result in results)
    unchanged = sum(np.array_equal(result.image, image) for result in results)
    assert unchanged / 200 == pytest.approx(1 / 16, abs=0.05)  # four coin tosses


def test_drawn_values_stay_in_their_ranges() -> None:
    distortion, image = PhotometricDistortion(), colours(2, 2)
    np.random.seed(0)
    drawn = [distortion.get_transform(image) for _ in range(2000)]
    expected = {
        "brightness": (-32, 32, 0),
        "contrast": (0.5, 1.5, 1),
        "saturation": (0.5, 1.5, 1),
        "hue": (-18, 17, 0),
    }
    for name, (low, high, neutral) in expected.items():
        values = np.array([getattr(transform, name) for transform in drawn])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert (values == neutral).mean() == pytest.approx(0.5, abs=0.06)
    assert np.mean([transform.contrast_last for transform in drawn]) == pytest.approx(0.5, abs=0.05)


def test_equal_seeds_give_equal_images() -> None:
    pipeline = semantic_train(scale=(160, 80), crop_size=(48, 48))
    image = colours(60, 90)
    sem_seg = np.random.default_rng(0).integers(0, 5, (60, 90), dtype=np.uint8)
    results = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        results.append(augment(pipeline, image, sem_seg))
    assert np.array_equal(results[0].image, results[1].image)
    assert np.array_equal(results[0].sem_seg, results[1].sem_seg)
    assert not np.array_equal(results[0].image, results[2].image)


def test_colours_need_rgb() -> None:
    with pytest.raises(ValueError, match=r"uint8 images \(H, W, 3\), got float32 \(4, 4, 3\)"):
        PhotometricDistortion().get_transform(np.zeros((4, 4, 3), np.float32))
