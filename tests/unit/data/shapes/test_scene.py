"""Scenes: the truth agrees with the geometry and with the image."""

import numpy as np
import pytest

from vit_adapter.data.shapes.scene import (
    STUFF_CLASSES,
    THING_CLASSES,
    Scene,
    _place_shapes,
    _Shape,
    draw_scene,
)

SIZE = 128
SCENES = [draw_scene(np.random.default_rng([0, i]), SIZE) for i in range(40)]


def test_a_scene_has_the_promised_arrays():
    for scene in SCENES:
        assert scene.image.shape == (SIZE, SIZE, 3) and scene.image.dtype == np.uint8
        assert scene.segments.shape == scene.ground.shape == (SIZE, SIZE)
        assert 3 <= len(scene.categories) <= 8
        assert set(np.unique(scene.segments)) - {0} == set(range(1, len(scene.categories) + 1))
        assert set(np.unique(scene.ground)) <= set(range(len(STUFF_CLASSES)))


def test_only_equal_states_give_equal_scenes():
    first, second, other = (draw_scene(np.random.default_rng(seed), SIZE) for seed in (5, 5, 6))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.segments, second.segments)
    assert not np.array_equal(first.image, other.image)


def test_every_class_texture_and_size_occurs():
    categories = [category for scene in SCENES for category in scene.categories]
    counts = np.bincount(categories, minlength=len(THING_CLASSES))
    assert counts.min() > 0.2 * len(categories)
    assert {int(g) for scene in SCENES for g in np.unique(scene.ground)} == {0, 1}
    areas = np.array([s.visible_mask(k).sum() for s in SCENES for k in range(len(s.categories))])
    assert 0.3 < (areas < 32**2).mean() < 0.9
    assert areas.min() >= 40


@pytest.mark.parametrize(
    ("name", "inside", "outside"),  # offsets (x, y) in pixels from the centre
    [
        ("circle", [(9, 0), (0, -9), (7, 7)], [(11, 0), (8, 7), (-8, -7)]),  # radius 10
        ("square", [(8, 0), (8, 8), (-8, 8)], [(9, 0), (0, -9)]),  # half-side 8.9
        # circumradius 13: a side at x = 6.5 and the corners (-13, 0), (6.5, +-11.3)
        ("triangle", [(6, 0), (-12, 0), (6, 10), (6, -10)], [(7, 0), (-14, 0), (6, 12), (-5, 6)]),
    ],
)
def test_shapes_follow_their_geometry(name, inside, outside):
    shape = _Shape(THING_CLASSES.index(name), (20.5, 20.5), 10.0, 0.0)  # centre of pixel (20, 20)
    distance = shape.signed_distance(40)
    assert all(distance[20 + y, 20 + x] < 0 for x, y in inside)
    assert all(distance[20 + y, 20 + x] > 0 for x, y in outside)


@pytest.mark.parametrize("name", THING_CLASSES)
@pytest.mark.parametrize("angle", [0.0, 0.3, 1.1])
def test_areas_follow_their_formulas(name, angle):
    expected = {
        "circle": np.pi * 20**2,
        "square": (2 * 0.89 * 20) ** 2,
        "triangle": 3 * np.sqrt(3) / 4 * (1.3 * 20) ** 2,
    }[name]
    shape = _Shape(THING_CLASSES.index(name), (50.0, 50.0), 20.0, angle)
    assert (shape.signed_distance(100) < 0).sum() == pytest.approx(expected, rel=0.03)


def test_later_shapes_hide_earlier_ones_but_never_too_much():
    occluded = 0
    for seed in range(15):
        shapes, segments = _place_shapes(np.random.default_rng(seed), SIZE)
        full = [shape.signed_distance(SIZE) < 0 for shape in shapes]
        truth = np.zeros((SIZE, SIZE), int)
        for index, mask in enumerate(full):
            truth[mask] = index + 1
        assert np.array_equal(truth, segments)
        for index, mask in enumerate(full):
            visible = (segments == index + 1).sum()
            assert visible >= 0.6 * mask.sum()
            occluded += visible < mask.sum()
    assert occluded >= 10  # there are overlaps


def test_the_image_shows_the_shapes_where_the_truth_says():
    saturation_inside, saturation_outside = [], []
    for scene in SCENES:
        pixels = scene.image.astype(float)
        saturation = (pixels.max(2) - pixels.min(2)) / np.maximum(pixels.max(2), 1)
        saturation_inside.append(saturation[scene.segments > 0].mean())
        saturation_outside.append(saturation[scene.segments == 0].mean())
    assert min(saturation_inside) > max(saturation_outside)


def test_things_are_the_classes_of_the_segments():
    scene = Scene(
        image=np.zeros((1, 4, 3), np.uint8),
        categories=(2, 0),
        segments=np.array([[0, 1, 2, 1]], np.uint8),
        ground=np.zeros((1, 4), np.uint8),
    )
    assert scene.things().tolist() == [[-1, 2, 0, 2]]
    assert scene.visible_mask(0).tolist() == [[False, True, False, True]]


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 64 px.*image_size=63"):
        draw_scene(np.random.default_rng(0), 63)
