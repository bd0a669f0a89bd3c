"""The COCO pipelines against their specification: sizes, limits, probabilities, and crops."""

from collections import Counter

import numpy as np
import pytest
from detectron2.config import LazyCall as L, LazyConfig, instantiate
from detectron2.data import DatasetMapper, transforms as T
from detectron2.structures.masks import polygons_to_bitmask
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform
from omegaconf import OmegaConf

from vit_adapter.data import (
    coco_1x_train,
    coco_3x_train,
    coco_htc_train,
    coco_lsj_train,
    coco_panoptic_train,
    coco_test,
    flip_and_resize,
    large_scale_jitter,
    resize,
)
from vit_adapter.data.instances.augmentation import PolygonMovingCrop, RandomBranch, RandomCrop

DRAWS = 400


class _Size:
    """Stands in for an image, so that thousands of draws need no pixels."""

    def __init__(self, height, width):
        self.shape = (height, width, 3)


class _SizeInput:
    def __init__(self, height, width):
        self.image = _Size(height, width)

    def transform(self, transform):
        if isinstance(transform, T.ResizeTransform):
            assert self.image.shape[:2] == (transform.h, transform.w)
            self.image = _Size(transform.new_h, transform.new_w)
        elif isinstance(transform, CropTransform):
            assert transform.y0 + transform.h <= self.image.shape[0]
            assert transform.x0 + transform.w <= self.image.shape[1]
            self.image = _Size(transform.h, transform.w)
        else:
            assert isinstance(transform, HFlipTransform | NoOpTransform)


def _draw(augmentations, height, width, count=DRAWS, seed=0):
    """Return the list of transforms of each draw."""
    np.random.seed(seed)
    policy = T.AugmentationList(augmentations)
    return [policy(_SizeInput(height, width)).transforms for _ in range(count)]


def _only(transforms, kind):
    return [transform for transform in transforms if isinstance(transform, kind)]


def _near(count, probability, total=DRAWS):
    """Whether a binomial count is within 4 standard deviations."""
    return abs(count - probability * total) < 4 * (total * probability * (1 - probability)) ** 0.5


@pytest.mark.parametrize(
    "train",
    [
        coco_1x_train,
        coco_3x_train,
        coco_htc_train,
        coco_lsj_train,
        coco_panoptic_train,
        flip_and_resize,
    ],
)
def test_half_of_the_images_are_mirrored_first(train):
    draws = _draw(train(), 480, 640)
    flips = [isinstance(transforms[0], HFlipTransform) for transforms in draws]
    assert _near(sum(flips), 0.5)
    assert all(len(_only(transforms, HFlipTransform)) <= 1 for transforms in draws)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((300, 900), (444, 1333)),  # the long side decides
        ((100, 100), (800, 800)),
    ],
)
@pytest.mark.parametrize("policy", [coco_1x_train, coco_test])
def test_1x_and_test_resize_to_800_and_at_most_1333(policy, size, expected):
    for transforms in _draw(policy(), *size, count=5):
        (scaling,) = _only(transforms, T.ResizeTransform)
        assert (scaling.new_h, scaling.new_w) == expected
        assert not _only(transforms, CropTransform)


def test_testing_changes_nothing_at_random():
    assert len(coco_test()) == len(resize()) == 1


def test_3x_takes_each_branch_half_of_the_time():
    draws = _draw(coco_3x_train(), 480, 640)
    scalings = Counter(len(_only(transforms, T.ResizeTransform)) for transforms in draws)
    assert set(scalings) == {1, 2}
    assert _near(scalings[2], 0.5)
    for transforms in draws:
        kinds = [type(transform).__name__ for transform in transforms[1:]]
        assert kinds in (
            ["ResizeTransform", "PolygonMovingCrop"],
            ["ResizeTransform", "PolygonMovingCrop", "ResizeTransform", "PolygonMovingCrop"],
        )


def test_3x_scales_are_uniform_over_480_to_800_in_steps_of_32():
    draws = _draw(coco_3x_train(), 600, 600, count=2200)
    short = Counter(_only(t, T.ResizeTransform)[-1].new_h for t in draws if len(t) == 3)
    assert sorted(short) == [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
    assert all(_near(count, 1 / 11, sum(short.values())) for count in short.values())


def test_3x_second_branch_crops_384_to_600_after_400_500_or_600():
    draws = [t for t in _draw(coco_3x_train(), 600, 1200, count=1500) if len(t) == 5]
    first = Counter(_only(t, T.ResizeTransform)[0].new_h for t in draws)
    assert sorted(first) == [400, 500, 600]
    assert all(_near(count, 1 / 3, len(draws)) for count in first.values())
    heights, widths = [], []
    for transforms in draws:
        _, scaling, crop, final, _ = transforms
        assert 384 <= crop.h <= min(600, scaling.new_h)
        assert 384 <= crop.w <= 600
        assert min(final.new_h, final.new_w) in range(480, 801, 32)
        heights.append(crop.h if scaling.new_h == 600 else None)
        widths.append(crop.w)
    for sides in (widths, [height for height in heights if height is not None]):
        assert min(sides) < 395 and max(sides) > 590  # both limits are reached
        assert np.mean(sides) == pytest.approx((384 + 600) / 2, abs=12)


def test_3x_pre_crop_of_a_side_below_384_keeps_that_side():
    for transforms in _draw(coco_3x_train(), 300, 1333, count=60):
        if len(transforms) == 5:  # the long side of 1333 limits the short side of 400 to 300
            assert transforms[2].h == transforms[1].new_h < 384


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (400, 1300), (900, 900), (50, 60)])
def test_3x_ends_with_a_crop_to_at_most_1024(size):
    final_sides = set()
    for transforms in _draw(coco_3x_train(), *size, count=200):
        scaling, crop = transforms[-2:]
        assert max(scaling.new_h, scaling.new_w) <= 1333
        assert (crop.h, crop.w) == (min(1024, scaling.new_h), min(1024, scaling.new_w))
        final_sides.add(crop.w)
    if size == (400, 1300):
        assert 1024 in final_sides


def test_3x_crops_are_placed_anywhere():
    np.random.seed(0)
    crops = [RandomCrop("absolute", (10, 20)).get_transform(_Size(30, 60)) for _ in range(2000)]
    assert {crop.y0 for crop in crops} == set(range(21))
    assert {crop.x0 for crop in crops} == set(range(41))


def test_3x_on_pixels_gives_the_same_sizes():
    np.random.seed(1)
    for _ in range(4):
        labels = np.ones((120, 200), np.uint8)
        aug_input = T.AugInput(np.zeros((120, 200, 3), np.uint8), sem_seg=labels)
        T.AugmentationList(coco_3x_train())(aug_input)
        assert aug_input.image.shape[:2] == aug_input.sem_seg.shape
        assert max(aug_input.image.shape) <= 1024
        assert (aug_input.sem_seg == 1).all()


def test_panoptic_images_are_those_of_3x_without_the_last_crop():
    panoptic = _draw(coco_panoptic_train(), 480, 640)
    assert {len(_only(transforms, CropTransform)) for transforms in panoptic} == {0, 1}
    assert max(_only(t, T.ResizeTransform)[-1].new_w for t in panoptic) > 1024
    with_crop = _draw(coco_3x_train(), 480, 640, count=1)[0]
    assert [str(t) for t in with_crop[: len(panoptic[0])]] == [str(t) for t in panoptic[0]]
    assert len(with_crop) == len(panoptic[0]) + 1


def test_jittered_images_are_padded_to_a_square():
    image = np.zeros((30, 40, 3), np.uint8)
    padded = 0
    for _ in range(50):
        aug_input = T.AugInput(image, sem_seg=np.ones((30, 40), np.uint8))
        transforms = T.AugmentationList(large_scale_jitter(100))(aug_input).transforms
        (resized,) = _only(transforms, T.ResizeTransform)
        inside = min(100, resized.new_w) * min(100, resized.new_h)
        assert aug_input.image.shape == (100, 100, 3)
        assert (aug_input.image == 128).all(-1).sum() == 100 * 100 - inside
        assert aug_input.sem_seg.sum() == inside
        padded += inside < 100 * 100
    assert 0 < padded < 50
    unpadded = coco_lsj_train(100)
    assert repr(large_scale_jitter(100)[:-1]) == repr(unpadded)


def test_jitter_keeps_whole_polygons():
    square = np.array([[0.0, 0], [40, 0], [40, 30], [0, 30]])
    for _ in range(20):
        transforms = T.AugmentationList(large_scale_jitter(20))(T.AugInput(np.zeros((30, 40, 3))))
        (moved,) = transforms.apply_polygons([square.copy()])
        (resized,) = _only(transforms.transforms, T.ResizeTransform)
        assert np.ptp(moved, axis=0) == pytest.approx([resized.new_w, resized.new_h])


def test_branches_are_validated_and_empty_ones_do_nothing():
    with pytest.raises(ValueError, match="at least one branch"):
        RandomBranch(branches=[])
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    aug_input = T.AugInput(image.copy())
    RandomBranch(branches=[[]])(aug_input)
    assert np.array_equal(aug_input.image, image)


def test_a_moved_polygon_draws_the_same_mask_as_a_cropped_one():
    """Within the crop, whole polygons draw the same as the cropped mask.

    Single edge pixels may differ, because pycocotools rounds coordinates to fifths of a pixel, and
    negative ones upwards.
    """
    rng = np.random.default_rng(0)
    for _ in range(100):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        directions = np.stack([np.cos(angles), np.sin(angles)], 1)
        star = rng.uniform([15, 10], [45, 40]) + directions * rng.uniform(8, 25, (9, 1))
        crop = PolygonMovingCrop(*rng.integers(5, 20, 2), 30, 20, 60, 50)
        whole = polygons_to_bitmask([star.ravel()], 50, 60)
        (moved,) = crop.apply_polygons([star.copy()])
        drawn = polygons_to_bitmask([moved.ravel()], 20, 30)
        assert (drawn != crop.apply_image(whole)).sum() <= 0.02 * drawn.size


def test_lazy_configs_hold_the_policies_as_targets(tmp_path):
    node = L(DatasetMapper)(is_train=True, augmentations=L(coco_3x_train)(), image_format="RGB")
    path = str(tmp_path / "config.yaml")
    LazyConfig.save(OmegaConf.create({"mapper": node}, flags={"allow_objects": True}), path)
    node = LazyConfig.load(path).mapper
    small = L(flip_and_resize)(short_edges=[112, 128], max_size=200)
    assert [type(a).__name__ for a in instantiate(node).augmentations.augs] == [
        "RandomFlip",
        "RandomBranch",
        "RandomCrop",
    ]
    flip, scaling = instantiate(small)
    assert (flip.prob, scaling.short_edge_length, scaling.max_size) == (0.5, [112, 128], 200)
    assert "RandomBranch" in repr(instantiate(node).augmentations)


def test_small_sizes_for_the_quick_start():
    sizes = {
        (_only(t, T.ResizeTransform)[0].new_h, _only(t, T.ResizeTransform)[0].new_w)
        for t in _draw(flip_and_resize([96, 128], 150), 64, 128, count=40)
    }
    assert sizes == {(75, 150)}  # both capped by the long side
    draws = _draw(flip_and_resize([96, 128], 256), 64, 64)
    heights = {_only(transforms, T.ResizeTransform)[0].new_h for transforms in draws}
    assert heights == {96, 128}


def test_htc_draws_any_short_side_within_its_range():
    draws = _draw(coco_htc_train(), 600, 700)
    shorts = [_only(transforms, T.ResizeTransform)[0].new_h for transforms in draws]
    assert min(shorts) < 420 and max(shorts) > 1350
    assert max(shorts) <= 1600 * 600 / 700  # the long side decides
    assert len({short % 32 for short in shorts}) == 32
    fine_tuning = _draw(coco_htc_train((600, 1600), 2000), 600, 600)
    shorts = [_only(transforms, T.ResizeTransform)[0].new_h for transforms in fine_tuning]
    assert 600 <= min(shorts) < 650 and 1550 < max(shorts) <= 1600


def test_large_scale_jitter():
    draws = _draw(coco_lsj_train(), 480, 640, count=2000)
    factors = []
    for _, scaling, crop in draws:
        factors.append(scaling.new_w / 1024)
        assert scaling.new_h == pytest.approx(scaling.new_w * 480 / 640, abs=1)
        assert (crop.h, crop.w) == (min(1024, scaling.new_h), min(1024, scaling.new_w))
    assert min(factors) < 0.11 and max(factors) > 1.99
    assert np.mean(factors) == pytest.approx(1.05, abs=0.06)
    # The two axes are drawn apart.
    large = [(s, c) for _, s, c in draws if s.new_h > 1200]
    rows, columns = zip(
        *((c.y0 / (s.new_h - 1024), c.x0 / (s.new_w - 1024)) for s, c in large), strict=True
    )
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2
    smaller = _draw(coco_lsj_train(size=100), 480, 640, count=50)
    assert max(crop.w for _, _, crop in smaller) == 100
