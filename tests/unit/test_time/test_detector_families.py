"""What the wrappers of detectors promise, for every family of detectors."""

from copy import deepcopy

import pytest
import torch
from detector_families import (
    CONFIGS,
    WITH_MASKS,
    SetDetector,
    assert_same,
    build,
    plain,
    random_image,
)
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from vit_adapter.test_time import DetectorTiles, DetectorViews, Suppression, candidates

SIZE = {"height": 70, "width": 99}
NO_NMS = Suppression(method="gaussian", sigma=float("inf"), min_score=0.0)


@pytest.fixture(params=CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> nn.Module:
    return build(family)


def resized(image: Tensor, shorter: int = 48) -> Tensor:
    array = image.permute(1, 2, 0).numpy()
    resize = T.ResizeShortestEdge([shorter], 100, "choice").get_transform(array)
    return torch.tensor(resize.apply_image(array)).permute(2, 0, 1)


def test_one_view_and_one_tile_equal_plain_inference_exactly(model: nn.Module, family: str) -> None:
    image = random_image(**SIZE)
    expected = plain(model, resized(image), **SIZE)
    assert expected.has("pred_masks") == (family in WITH_MASKS)
    if family in WITH_MASKS:
        assert expected.pred_masks.any() and not expected.pred_masks.all()
    settings = [dict(vars(module)) for module in model.modules()]
    one_view = DetectorViews(model, scales=[48], max_size=100)
    assert_same(plain(one_view, image), expected)
    one_tile = DetectorTiles(one_view, size=[99, 99], overlap=[0, 0])
    assert_same(plain(one_tile, image), expected)
    resize = T.ResizeShortestEdge([48], 100, "choice")
    one_tile = DetectorTiles(model, size=[70, 99], overlap=[9, 9], augmentations=[resize])
    assert_same(plain(one_tile, image), expected)
    assert settings == [dict(vars(module)) for module in model.modules()]
    one, other = DetectorViews(model)([{"image": image}, {"image": resized(image)}])
    assert_same(one["instances"], plain(model, image))
    assert_same(other["instances"], plain(model, resized(image)))


def test_soft_nms_at_its_limit_equals_inference_without_nms(model: nn.Module) -> None:
    image = random_image(**SIZE)
    soft = plain(DetectorViews(model, nms=NO_NMS), image)
    for module in model.modules():
        if "test_nms_thresh" in vars(module):
            module.test_nms_thresh = 2.0
    assert_same(soft, plain(model, image))


def test_soft_nms_that_removes_all_overlaps_equals_nms_at_zero(model: nn.Module) -> None:
    image = random_image(**SIZE)
    soft = Suppression(method="gaussian", sigma=1e-30, min_score=1e-30)
    found = plain(DetectorViews(model, nms=soft), image)
    expected = plain(DetectorViews(model, nms=Suppression(iou_threshold=0.0)), image)
    assert 1 < len(found) and rows(found) == rows(expected)


def rows(found: Instances) -> list[list[float]]:
    """Scores, boxes and classes, sorted: soft-NMS has another order of equal scores.

    Slivers are left out: Detectron2's NMS moves boxes in float32, which rounds them away.
    """
    found = found[found.pred_boxes.nonempty(threshold=0.1)]
    values = zip(found.scores, found.pred_boxes.tensor, found.pred_classes, strict=True)
    return sorted([float(s), *box.tolist(), int(label)] for s, box, label in values)


def test_views_are_pooled(model: nn.Module, family: str) -> None:
    """Merged boxes are those of single views, and their masks the mean of those of all views."""
    image = random_image(**SIZE)
    nms = Suppression(method="hard", iou_threshold=0.6)
    views = DetectorViews(model, scales=[48, 64], max_size=100, flip=True, nms=nms)
    single = [resized(image, shorter).flip(axes) for shorter in (48, 64) for axes in ((), (-1,))]
    kept = []
    average = views._average_masks

    def keep(merged: Instances, shown: list) -> Tensor:
        masks = average(merged, shown)
        kept.append((deepcopy(merged), masks))  # postprocessing changes the boxes in place
        return masks

    views._average_masks = keep
    found = plain(views, image, **SIZE)
    pool = torch.cat([back(model, view, mirrored=i % 2 == 1) for i, view in enumerate(single)])
    assert 0 < len(found) <= candidates.max_detections(model)
    for box, score in zip(found.pred_boxes.tensor, found.scores, strict=True):
        distance = (pool - torch.cat([box, score[None]])).abs().amax(dim=1)
        assert distance.min() < 1e-3
    assert len(kept) == found.has("pred_masks") == (family in WITH_MASKS)
    for merged, masks in kept:
        assert torch.equal(merged.scores[merged.pred_boxes.nonempty()], found.scores)
        total = sum(
            masks_in(model, view, merged, mirrored=i % 2 == 1) for i, view in enumerate(single)
        )
        torch.testing.assert_close(masks, total / 4, rtol=1e-3, atol=1e-4)


def back(model: nn.Module, view: Tensor, *, mirrored: bool) -> Tensor:
    """The candidates (N, 5) of a view, clipped to the original image, with their scores."""
    with torch.no_grad():
        found, _ = candidates.find_candidates(model, view)
    boxes = found.pred_boxes.tensor.clone()
    if mirrored:
        boxes[:, [0, 2]] = view.shape[2] - boxes[:, [2, 0]]
    boxes[:, ::2] *= SIZE["width"] / view.shape[2]
    boxes[:, 1::2] *= SIZE["height"] / view.shape[1]
    clipped = Boxes(boxes)
    clipped.clip((SIZE["height"], SIZE["width"]))
    return torch.cat([clipped.tensor, found.scores[:, None]], dim=1)


def masks_in(model: nn.Module, view: Tensor, merged: Instances, *, mirrored: bool) -> Tensor:
    """The masks of merged boxes that ``model.inference`` predicts in a view."""
    boxes = merged.pred_boxes.tensor.clone()
    boxes[:, ::2] *= view.shape[2] / merged.image_size[1]
    boxes[:, 1::2] *= view.shape[1] / merged.image_size[0]
    if mirrored:
        boxes[:, [0, 2]] = view.shape[2] - boxes[:, [2, 0]]
    given = Instances(tuple(view.shape[1:]), pred_boxes=Boxes(boxes), scores=merged.scores)
    given.pred_classes = merged.pred_classes
    with torch.no_grad():
        (given,) = model.inference([{"image": view}], [given], do_postprocess=False)
    return given.pred_masks.flip(-1) if mirrored else given.pred_masks


def test_views_in_tiles_and_autocast(model: nn.Module, family: str) -> None:
    image = random_image(**SIZE)
    nms = Suppression(method="hard", iou_threshold=0.6)
    views = DetectorViews(model, scales=[40, 48], max_size=100, flip=True, nms=nms)
    tiles = DetectorTiles(views, size=[48, 48], overlap=[16, 16])
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(model, image)
        assert_same(plain(DetectorViews(model), image), expected)
        found = plain(tiles, image)
    assert len(found) > 0 and found.image_size == (70, 99)
    assert found.get_fields().keys() == expected.get_fields().keys()
    for name, value in expected.get_fields().items():
        if name != "pred_boxes":
            assert found.get(name).dtype == value.dtype
            assert found.get(name).shape[1:] == value.shape[1:]
    limits = torch.tensor([99, 70, 99, 70])
    assert (found.pred_boxes.tensor >= 0).all() and (found.pred_boxes.tensor <= limits).all()


def test_no_objects(model: nn.Module, family: str) -> None:
    for module in model.modules():
        for name in ("test_score_thresh", "test_topk_per_image"):
            if name in vars(module):
                setattr(module, name, 2.0 if name == "test_score_thresh" else 0)
    image = random_image(**SIZE)
    nms = Suppression(method="hard", iou_threshold=0.6)
    views = DetectorViews(model, scales=[40, 48], max_size=100, flip=True, nms=nms)
    for wrapped in (views, DetectorTiles(views, size=[48, 48], overlap=[16, 16])):
        found = plain(wrapped, image)
        assert len(found) == 0 and found.image_size == (70, 99)
        assert found.get_fields().keys() == plain(model, image).get_fields().keys()
        assert not found.has("pred_masks") or found.pred_masks.shape == (0, 70, 99)


def test_several_views_of_a_detector_without_nms_need_a_threshold() -> None:
    model = SetDetector().eval()
    with pytest.raises(ValueError, match=r"hard NMS of 2 views; give nms an iou_threshold"):
        DetectorViews(model, flip=True)
    with pytest.raises(ValueError, match=r"linear NMS of 1 views; give nms an iou_threshold"):
        DetectorViews(model, nms=Suppression(method="linear"))
    image = random_image(**SIZE)
    both = DetectorViews(model, flip=True, nms=NO_NMS, max_detections=12)
    assert len(plain(both, image)) == 12  # six of each view
    merged = DetectorViews(model, flip=True, nms=Suppression(iou_threshold=0.3))
    assert 0 < len(plain(merged, image)) < 6


class WithMasks(SetDetector):
    def detect(self, image: Tensor, **size: int) -> Instances:
        found = super().detect(image, **size)
        found.pred_masks = torch.zeros(len(found), *found.image_size, dtype=torch.bool)
        return found


def test_masks_that_cannot_be_averaged_are_refused() -> None:
    model = WithMasks().eval()
    with pytest.raises(TypeError, match=r"WithMasks predicts .*'pred_masks'.* expected"):
        plain(DetectorViews(model), random_image(**SIZE))
    model.mask_on = True
    with pytest.raises(TypeError, match="a WithMasks with masks, but only a GeneralizedRCNN"):
        DetectorViews(model)
