"""Objects moved within their image: where they go, and what stays as it was."""

import copy

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygons_to_bitmask
from pycocotools import mask as mask_util

from vit_adapter.data import InstanceJitter

HEIGHT, WIDTH = 90, 120
GREEN, RED = (0, 200, 0), (220, 0, 0)


def _annotation(x1, y1, x2, y2, form="polygon", **changes):
    polygon = [float(v) for v in (x1, y1, x2, y1, x2, y2, x1, y2)]
    segmentation = [polygon]
    if form == "run-length code":
        bitmap = polygons_to_bitmask([np.array(polygon)], HEIGHT, WIDTH)
        segmentation = mask_util.encode(np.asfortranarray(bitmap, dtype=np.uint8))
    return {
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 3,
        "segmentation": segmentation,
        **changes,
    }


def _image(*boxes):
    """A green image with red rectangles."""
    image = np.full((HEIGHT, WIDTH, 3), GREEN, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = RED
    return image


def _jitter(**changes):
    return InstanceJitter(**{"probability": 1.0, "color_probability": 0.0, **changes})


def _bitmap(annotation):
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation).astype(bool)
    return polygons_to_bitmask([np.array(p) for p in segmentation], HEIGHT, WIDTH)


def _is_red(image):
    return (image[..., 0] > 110) & (image[..., 1] < 100)


@pytest.mark.parametrize("form", ["polygon", "run-length code"])
@pytest.mark.parametrize("seed", range(8))
def test_image_mask_and_box_move_together(form, seed):
    np.random.seed(seed)
    box = (40, 30, 80, 60)
    annotations = [_annotation(*box, form=form)]
    before = copy.deepcopy(annotations)
    image, (moved,) = _jitter(shift=0.3, angle=20.0)(_image(box), annotations)
    assert annotations == before and moved["category_id"] == 3
    red, mask = _is_red(image), _bitmap(moved)
    assert (red & mask).sum() / (red | mask).sum() > 0.9
    x1, y1, x2, y2 = moved["bbox"]
    assert moved["bbox_mode"] == BoxMode.XYXY_ABS
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == pytest.approx(
        [x1, y1, x2, y2], abs=1.5
    )
    assert not np.array_equal(mask, _bitmap(before[0]))
    # The hole is filled with what is around it.
    far = cv2.dilate((red | mask).astype(np.uint8), np.ones((9, 9))) == 0
    assert (image[far] == GREEN).all()


def _draws(count=300, **changes):
    """Scales, shifts relative to the box, and angles of a box of 40 x 20 pixels."""
    np.random.seed(0)
    box = (40, 30, 80, 50)
    jitter, image, annotation = _jitter(**changes), _image(box), _annotation(*box)
    for _ in range(count):
        _, (moved,) = jitter(image, [annotation])
        corners = np.reshape(moved["segmentation"][0], (4, 2))
        side = corners[1] - corners[0]
        shift = (corners.mean(0) - (60, 40)) / (40, 20)
        yield np.hypot(*side) / 40, *shift, np.rad2deg(np.arctan2(side[1], side[0]))


def test_strength_is_that_of_the_published_models():
    draws = np.array(list(_draws()))
    lowest, highest = np.array([0.8, -1 / 15, -1 / 15, -1]), np.array([1.2, 1 / 15, 1 / 15, 1])
    assert (draws > lowest - 1e-6).all() and (draws < highest + 1e-6).all()
    spread = (highest - lowest) / 20  # uniform: the ends are reached
    assert (draws.min(0) < lowest + spread).all() and (draws.max(0) > highest - spread).all()
    assert draws.mean(0) == pytest.approx((lowest + highest) / 2, abs=0.03)


def test_half_of_the_images_are_changed():
    np.random.seed(0)
    box = (40, 30, 80, 60)
    image, annotations = _image(box), [_annotation(*box)]
    jitter = InstanceJitter()
    changed = sum(jitter(image, annotations)[0] is not image for _ in range(200))
    assert 70 < changed < 130
    assert InstanceJitter(probability=0.0)(image, annotations) == (image, annotations)


def test_colours_of_objects_change_alone():
    np.random.seed(1)
    box = (40, 30, 80, 60)
    image, _ = _jitter(color_probability=1.0)(_image(box), [_annotation(*box)])
    assert tuple(image[45, 60]) != RED
    assert tuple(image[5, 5]) == GREEN


def test_overlapping_objects_move_together():
    np.random.seed(0)
    boxes = [(20, 20, 50, 50), (40, 30, 70, 60), (90, 10, 110, 30)]
    _, moved = _jitter()(_image(*boxes), [_annotation(*box) for box in boxes])
    first, second, apart = (np.reshape(each["segmentation"][0], (4, 2)) for each in moved)
    sides = [corners[1] - corners[0] for corners in (first, second, apart)]
    np.testing.assert_allclose(sides[0], sides[1])  # both are 30 pixels wide
    assert not np.allclose(sides[0] / 30, sides[2] / 20)
    # (50, 30) is a corner of neither, but both say where it goes: from (50, 20) and (40, 30).
    down, right = (first[3] - first[0]) / 30, sides[0] / 30
    np.testing.assert_allclose(first[1] + 10 * down, second[0] + 10 * right)


@pytest.mark.parametrize("seed", range(5))
def test_objects_stay_at_the_side_of_the_image(seed):
    np.random.seed(seed)
    boxes = [(0, 20, 30, 50), (90, 30, 120, 60)]
    _, (left, right) = _jitter(angle=0.0)(_image(*boxes), [_annotation(*box) for box in boxes])
    assert left["bbox"][0] == pytest.approx(0) and right["bbox"][2] == pytest.approx(WIDTH)


def test_crowds_stay_as_they_are():
    box = (40, 30, 80, 60)
    crowd = _annotation(0, 0, 20, 20, iscrowd=1)
    image, (same, moved) = _jitter()(_image(box), [crowd, _annotation(*box)])
    assert same is crowd and moved["bbox"] != [40, 30, 80, 60]
    image = _image()
    assert _jitter()(image, [crowd])[0] is image
    assert _jitter()(image, []) == (image, [])


def test_an_object_outside_the_image_is_not_pasted():
    np.random.seed(0)
    image, (moved,) = _jitter()(_image(), [_annotation(200, 20, 230, 50)])
    assert (image == GREEN).all() and moved["bbox"][0] > WIDTH


def test_masks_are_read_only_around_their_objects(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "vit_adapter.data.instances.jitter.polygons_to_bitmask",
        lambda polygons, *size: sizes.append(size) or polygons_to_bitmask(polygons, *size),
    )
    box = (40, 30, 80, 60)
    _jitter()(_image(box), [_annotation(*box)])
    assert set(sizes) == {(30 + 12, 40 + 12)}


def test_thousands_of_objects():
    np.random.seed(0)
    boxes = [(x, y, x + 1, y + 1) for x in range(0, WIDTH, 2) for y in range(0, HEIGHT, 2)][:2000]
    _, moved = _jitter()(_image(*boxes), [_annotation(*box) for box in boxes])
    assert len(moved) == 2000


@pytest.mark.parametrize(
    "changes",
    [
        {"probability": 1.5},
        {"color_probability": -1},
        {"scale": (1.2, 0.8)},
        {"scale": (0, 1)},
        {"scale": (1,)},
        {"shift": -0.1},
        {"angle": -1},
    ],
)
def test_refuses_other_numbers(changes):
    with pytest.raises(ValueError, match="must be"):
        InstanceJitter(**changes)
