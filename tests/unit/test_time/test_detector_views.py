"""Views of detectors against plain inference and a slow, obvious loop."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from detector_families import assert_same, plain, random_image
from detectron2.data import transforms as T
from torch import Tensor, nn
from torchvision.ops import box_iou

from vit_adapter.test_time import DetectorViews, Suppression

Make = Callable[[str], nn.Module]
SCALES, MAX_SIZE = [24, 31, 60], 70
RANGES = [(150.0, None), (None, 400.0), (100.0, 150.0)]


@pytest.mark.parametrize("name", ["grid", "mask_rcnn", "retinanet"])
@pytest.mark.parametrize("size", [(64, 96), (75, 99)])
def test_one_view_equals_plain_inference_exactly(
    name: str, size: tuple[int, int], make_detector: Make
) -> None:
    model, image = make_detector(name), random_image(*size)
    resize = T.ResizeShortestEdge([48], 64, "choice").get_transform(image[0].numpy())
    small = resize.apply_image(image.permute(1, 2, 0).numpy()).transpose(2, 0, 1)
    expected = plain(model, torch.tensor(small), height=size[0], width=size[1])
    settings = [dict(vars(module)) for module in model.modules()]
    assert_same(plain(DetectorViews(model, scales=[48], max_size=64), image), expected)
    assert settings == [dict(vars(module)) for module in model.modules()]
    assert_same(plain(DetectorViews(model), image, height=9), plain(model, image, height=9))


def test_settings_are_restored_after_an_error(make_detector: Make) -> None:
    model = make_detector("grid")
    settings = dict(vars(model.roi_heads))
    model.roi_heads.candidates = None
    with pytest.raises(TypeError):
        plain(DetectorViews(model), random_image(20, 20))
    del model.roi_heads.candidates
    assert dict(vars(model.roi_heads)) == settings


@pytest.mark.parametrize("size", [(40, 56), (41, 57), (40, 57)])
def test_a_mirrored_view_maps_back_exactly(size: tuple[int, int], make_detector: Make) -> None:
    """The detector gives mirror images of its results, so that a second view changes nothing."""
    image = random_image(*size)
    model = make_detector("grid")
    expected = plain(model, image)
    assert expected.pred_masks.any() and not torch.equal(
        expected.pred_masks, expected.pred_masks.flip(-1)
    )
    assert_same(plain(DetectorViews(model, flip=True), image), expected, rtol=1e-5, atol=1e-3)


def slow_views(model: nn.Module, image: Tensor, flip: bool) -> Iterator[tuple[int, Tensor, bool]]:
    for index, scale in enumerate(SCALES):
        array = image.permute(1, 2, 0).numpy()
        array = (
            T.ResizeShortestEdge([scale], MAX_SIZE, "choice")
            .get_transform(array)
            .apply_image(array)
        )
        for mirrored in (False, True)[: 1 + flip]:
            shown = array[:, ::-1] if mirrored else array
            yield (
                index,
                torch.tensor(np.ascontiguousarray(shown)).permute(2, 0, 1).float(),
                mirrored,
            )


def slow_box(box: list[float], source: Tensor, target: Tensor, mirrored: bool) -> list[float]:
    y, x = target.shape[1] / source.shape[1], target.shape[2] / source.shape[2]
    x0, y0, x1, y1 = box[0] * x, box[1] * y, box[2] * x, box[3] * y
    return [target.shape[2] - x1, y0, target.shape[2] - x0, y1] if mirrored else [x0, y0, x1, y1]


def slow_nms(found: list[tuple], most: int) -> list[tuple]:
    left, kept = sorted(found, key=lambda one: -one[1]), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [
            one
            for one in left
            if one[2] != best[2] or box_iou(torch.tensor([best[0]]), torch.tensor([one[0]])) <= 0.5
        ]
    return kept[:most]


@pytest.mark.parametrize(("flip", "ranges"), [(True, RANGES), (False, RANGES), (True, None)])
def test_several_views_equal_the_slow_loop(
    flip: bool, ranges: list | None, make_detector: Make
) -> None:
    model, image = make_detector("grid"), random_image(45, 61)
    wrapped = DetectorViews(
        model, scales=SCALES, max_size=MAX_SIZE, flip=flip, area_ranges=ranges, max_detections=15
    )
    found = wrapped._detect({"image": image})
    pool = []
    for index, shown, mirrored in slow_views(model, image, flip):
        low, high = ranges[index] if ranges else (None, None)
        size = tuple(shown.shape[1:])
        for box, score, label in zip(*model.roi_heads.candidates(shown[None], size), strict=True):
            box = slow_box(box.tolist(), shown, image, mirrored)
            area = (box[2] - box[0]) * (box[3] - box[1])
            if (low is None or area > low) and (high is None or area <= high):
                pool.append((box, float(score), int(label)))
    expected = slow_nms(pool, 15)
    assert found.scores.tolist() == pytest.approx([score for _, score, _ in expected])
    assert found.pred_classes.tolist() == [label for _, _, label in expected]
    boxes = torch.tensor([box for box, _, _ in expected])
    torch.testing.assert_close(found.pred_boxes.tensor, boxes, rtol=1e-4, atol=1e-4)
    for box, mask in zip(boxes.tolist(), averaged_masks(wrapped, image), strict=True):
        total = torch.zeros(5, 5)
        views = list(slow_views(model, image, flip))
        for _, shown, mirrored in views:
            moved = torch.tensor([slow_box(box, image, shown, mirrored)])
            one = model.roi_heads.masks(shown[None], moved)[0, 0]
            total += torch.tensor([row[::-1] for row in one.tolist()]) if mirrored else one
        torch.testing.assert_close(mask, total / len(views), rtol=1e-4, atol=1e-4)


def averaged_masks(wrapped: DetectorViews, image: Tensor) -> Tensor:
    """The masks (N, M, M) before they are pasted into the image."""
    kept = []
    average = wrapped._average_masks
    wrapped._average_masks = lambda *args: kept.append(average(*args)) or kept[0]
    plain(wrapped, image)
    return kept[0][:, 0]


@pytest.mark.parametrize("name", ["grid", "mask_rcnn", "retinanet"])
def test_soft_nms_at_its_limit_equals_plain_inference_without_nms(
    name: str, make_detector: Make
) -> None:
    model, image = make_detector(name), random_image(64, 96)
    limit = Suppression(method="gaussian", sigma=float("inf"), min_score=0.0)
    soft = plain(DetectorViews(model, nms=limit), image)
    (holder,) = (module for module in model.modules() if "test_nms_thresh" in vars(module))
    holder.test_nms_thresh = 2.0
    assert_same(soft, plain(model, image))
    # Away from its limit soft-NMS lowers scores.
    lower = plain(DetectorViews(model, nms=Suppression(method="linear", iou_threshold=0.05)), image)
    assert lower.scores.sum() < 0.99 * soft.scores.sum()


def test_no_objects(make_detector: Make) -> None:
    model = make_detector("grid")
    model.roi_heads.test_score_thresh = 2.0
    found = plain(DetectorViews(model, scales=[20, 30], flip=True), random_image(30, 40))
    assert len(found) == 0 and found.pred_masks.shape == (0, 30, 40)


class Other(nn.Module):
    pass


def other(make_detector: Make) -> nn.Module:
    return Other()


def without_proposals(make_detector: Make) -> nn.Module:
    model = make_detector("grid")
    model.proposal_generator = None
    return model


def with_keypoints(make_detector: Make) -> nn.Module:
    model = make_detector("grid")
    model.roi_heads.keypoint_on = True
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other, "the model is a Other, expected a detector that keeps .* test_topk_per_image"),
        (without_proposals, "reads its proposals from files"),
        (with_keypoints, "predicts keypoints"),
    ],
)
def test_other_models_are_refused(make: Callable, message: str, make_detector: Make) -> None:
    with pytest.raises(TypeError, match=message):
        DetectorViews(make(make_detector))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": []}, "scales must be one or more"),
        ({"scales": [0.5, 1.0]}, r"in whole pixels.*got \[0.5, 1.0\]"),
        ({"scales": [800], "max_size": 700}, "at least the largest scale, got 700"),
        ({"max_detections": 0}, "max_detections must be >= 1, got 0"),
        ({"scales": [20, 30], "area_ranges": [[None, 9]]}, "each of the 2 scales, got 1"),
        ({"area_ranges": [[9, 9]]}, r"more than, at most.*got \[9, 9\]"),
        ({"area_ranges": [[9]]}, r"more than, at most.*got \[9\]"),
    ],
)
def test_numbers_out_of_range_are_refused(
    options: dict[str, Any], message: str, make_detector: Make
) -> None:
    with pytest.raises(ValueError, match=message):
        DetectorViews(make_detector("grid"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "soft"}, "hard, linear or gaussian, got 'soft'"),
        ({"iou_threshold": -1}, "iou_threshold must be >= 0, got -1"),
        ({"method": "gaussian", "sigma": 0}, "sigma must be > 0, got 0"),
    ],
)
def test_suppression_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Suppression(**options)


def test_images_that_cannot_be_resized_are_refused(make_detector: Make) -> None:
    wrapped = DetectorViews(make_detector("grid"), scales=[20], max_size=30)
    with pytest.raises(ValueError, match=r"2000 x 2 pixels \(width x height\) cannot be resized"):
        plain(wrapped, random_image(2, 2000))


def test_training_mode_is_refused(make_detector: Make) -> None:
    wrapped = DetectorViews(make_detector("grid"))
    assert not wrapped.training
    with pytest.raises(RuntimeError, match="DetectorViews is for testing"):
        plain(wrapped.train(), random_image(20, 20))
