"""The mapper: equal to Detectron2's where that works, and errors that name file and annotation."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    build_detection_train_loader,
    transforms as T,
)
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from vit_adapter.data import CheckedDatasetMapper, coco_3x_train, flip_and_resize

ABSENT = object()
SETTINGS = dict(image_format="RGB", use_instance_mask=True, instance_mask_format="bitmask")


def _mapper(augmentations=(), is_train=True, **changes):
    settings = {**SETTINGS, **changes}
    return CheckedDatasetMapper(is_train, augmentations=list(augmentations), **settings)


def _record(tmp_path, **annotation):
    """Return the record of an image with a valid annotation and a second one with these changes."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    good = {
        "bbox": [2, 3, 6, 5],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "segmentation": [[2, 3, 8, 3, 8, 8, 2, 8]],
    }
    changed = {key: value for key, value in {**good, **annotation}.items() if value is not ABSENT}
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": 20,
        "width": 30,
        "image_id": 1,
        "annotations": [good, changed],
    }


def _run_length(height, width):
    return mask_util.encode(np.asfortranarray(np.ones((height, width), np.uint8)))


@pytest.mark.parametrize("name", ["shapes_train", "shapes_train_panoptic_separated"])
def test_valid_records_map_as_in_detectron2(registered_shapes, name):
    augmentations = flip_and_resize([90, 130], 200)
    ours = _mapper(augmentations)
    theirs = DatasetMapper(True, augmentations=augmentations, **SETTINGS)
    for record in DatasetCatalog.get(name):
        before = copy.deepcopy(record)
        np.random.seed(0)
        mine = ours(record)
        np.random.seed(0)
        expected = theirs(record)
        assert record == before
        assert set(mine) == set(expected)
        assert torch.equal(mine["image"], expected["image"])
        assert torch.equal(mine["instances"].gt_masks.tensor, expected["instances"].gt_masks.tensor)
        assert torch.equal(mine["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
        assert torch.equal(mine["instances"].gt_classes, expected["instances"].gt_classes)
        if "sem_seg" in expected:
            assert torch.equal(mine["sem_seg"], expected["sem_seg"])


def test_testing_drops_the_annotations(tmp_path):
    mapped = _mapper(is_train=False)(_record(tmp_path))
    assert set(mapped) == {"file_name", "height", "width", "image_id", "image"}
    assert mapped["image"].shape == (3, 20, 30) and mapped["image"].dtype == torch.uint8


def test_integer_boxes_and_polygons_are_resized_without_truncation(tmp_path):
    """At 7/30 of the width, 2 becomes 0.467, which integer arrays would truncate to 0."""
    record = _record(tmp_path)
    shrink = [T.ResizeTransform(20, 30, 20, 7)]
    instances = _mapper(shrink, instance_mask_format="polygon")(record)["instances"]
    expected = torch.tensor([2 * 7 / 30, 3, 8 * 7 / 30, 8])
    torch.testing.assert_close(instances.gt_boxes.tensor[1], expected)
    assert instances.gt_masks.polygons[1][0][0] == pytest.approx(2 * 7 / 30)


def test_crowds_are_left_out(tmp_path):
    record = _record(tmp_path, iscrowd=1)
    record["annotations"][0]["iscrowd"] = 0
    assert len(_mapper()(record)["instances"]) == 1


@pytest.mark.parametrize(("value", "is_crowd"), [(None, False), ("0", False), (True, True)])
def test_crowd_flags_of_other_types_are_converted(tmp_path, value, is_crowd):
    assert len(_mapper()(_record(tmp_path, iscrowd=value))["instances"]) == 2 - is_crowd


@pytest.mark.parametrize("is_train", [True, False])
def test_images_whose_annotations_ignore_exif_are_read_as_stored(tmp_path, is_train):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    record = _record(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    mapped = _mapper(is_train=is_train)(record)["image"]
    assert np.array_equal(mapped.numpy().transpose(1, 2, 0), pixels)
    record["height"], record["width"] = 30, 20
    assert _mapper(is_train=is_train)(record)["image"].shape == (3, 30, 20)


def test_boxes_without_area_are_left_out(tmp_path):
    record = _record(tmp_path, bbox=[2, 3, 6, 0])
    assert _mapper()(record)["instances"].gt_boxes.tensor.tolist() == [[2, 3, 8, 8]]


def test_boxes_only(tmp_path):
    record = _record(tmp_path, segmentation=ABSENT)
    instances = _mapper(use_instance_mask=False)(record)["instances"]
    assert len(instances) == 2 and not instances.has("gt_masks")


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("recompute_boxes", [False, True])
def test_coco_3x_keeps_boxes_and_masks_together(tmp_path, mask_format, recompute_boxes):
    """After the whole pipeline, boxes fit the drawn masks up to interpolation."""
    Image.fromarray(np.zeros((300, 500, 3), np.uint8)).save(tmp_path / "b.png")
    square = [100, 50, 400, 50, 400, 250, 100, 250]
    record = {
        "file_name": str(tmp_path / "b.png"),
        "height": 300,
        "width": 500,
        "image_id": 1,
        "annotations": [
            {
                "bbox": [100, 50, 300, 200],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 2,
                "segmentation": [square],
            }
        ],
    }
    mapper = _mapper(
        coco_3x_train(), instance_mask_format=mask_format, recompute_boxes=recompute_boxes
    )
    np.random.seed(0)
    for _ in range(12):
        mapped = mapper(record)
        height, width = mapped["image"].shape[1:]
        (box,) = mapped["instances"].gt_boxes.tensor
        assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
        masks = mapped["instances"].gt_masks
        if mask_format == "bitmask":
            assert masks.tensor.shape[1:] == (height, width)
            drawn = masks.get_bounding_boxes().tensor[0]
            assert (drawn - box).abs().max() <= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": ABSENT}, "KeyError.*bbox"),
        ({"bbox": [1, 2, 3]}, "not four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 3]}, "not four finite numbers"),
        ({"bbox": ["a", 2, 3, 4]}, "could not convert"),
        ({"bbox_mode": ABSENT}, "bbox_mode"),
        ({"category_id": ABSENT}, "category_id"),
        ({"category_id": None}, "TypeError"),
        ({"iscrowd": 2}, "its 'iscrowd' is 2"),
        ({"segmentation": ABSENT}, "no 'segmentation'"),
        ({"segmentation": []}, "no 'segmentation'"),
        ({"segmentation": "text"}, "segmentation"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "reshape"),
        ({"segmentation": [["x"] * 6]}, "could not convert"),
        ({"segmentation": {"size": [20, 30], "counts": "PPY"}}, "corrupt or truncated|add up"),
        ({"segmentation": _run_length(10, 10)}, "AssertionError"),
    ],
)
def test_corrupt_annotations_are_named(tmp_path, changes, message):
    expected = f"Annotation 1 .from 0. of .*a.png is corrupt: .*{message}"
    with pytest.raises(ValueError, match=expected):
        _mapper()(_record(tmp_path, **changes))


def test_a_wrong_mask_format_is_named(tmp_path):
    mapper, record = _mapper(instance_mask_format="polygon"), _record(tmp_path)
    record["annotations"][1]["segmentation"] = _run_length(20, 30)
    with pytest.raises(ValueError, match="a.png cannot be read with instance_mask_format=polygon"):
        mapper(record)


def test_missing_and_corrupt_images_are_named(tmp_path):
    record = _record(tmp_path)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    with pytest.raises(ValueError, match="a.png cannot be read"):
        _mapper()(record)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="a.png does not exist"):
        _mapper()(record)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_reach_the_user_through_the_loader(tmp_path, num_workers):
    record = _record(tmp_path)
    (tmp_path / "a.png").unlink()
    loader = build_detection_train_loader(
        [record] * 2, mapper=_mapper(), total_batch_size=1, num_workers=num_workers
    )
    with pytest.raises(FileNotFoundError, match="a.png does not exist"):
        next(iter(loader))


def test_a_size_other_than_that_of_the_json_is_named(tmp_path):
    record = _record(tmp_path)
    record["width"] = 31
    with pytest.raises(SizeMismatchError, match=r"a.png.*\(30, 20\).*\(31, 20\)"):
        _mapper()(record)


def test_one_pixel_images_are_named(tmp_path):
    record = _record(tmp_path)
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png has 1 x 1 pixels"):
        _mapper()(record)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1", "CMYK"])
def test_every_pixel_format_trains_and_tests(tmp_path, mode):
    record = _record(tmp_path)
    record["file_name"] = str(tmp_path / "a.tif")
    image = Image.new("1" if mode == "I;16" else mode, (30, 20))
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 30), 65535, np.uint16))
    image.save(tmp_path / "a.tif")
    for is_train in (True, False):
        mapped = _mapper(flip_and_resize([40], 80), is_train=is_train)(record)
        assert mapped["image"].shape == (3, 40, 60) and mapped["image"].dtype == torch.uint8


def test_shapes_that_shrink_to_nothing_name_the_image(tmp_path):
    Image.new("RGB", (3000, 2)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "annotations": []}
    with pytest.raises(ValueError, match="Augmenting .*a.png of 3000 x 2 pixels .* failed"):
        _mapper(flip_and_resize([128], 200))(record)


def test_label_maps_of_another_size_are_named(tmp_path):
    record = _record(tmp_path)
    Image.new("L", (10, 10)).save(tmp_path / "labels.png")
    record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    with pytest.raises(ValueError, match=r"a\.png has 30 x 20 .*labels\.png has 10 x 10\."):
        _mapper()(record)
