"""Instances with semantic labels: both follow the augmentations, and missing labels are errors."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from vit_adapter.data import InstanceJitter, InstanceSemanticMapper

ABSENT = object()
SETTINGS = dict(image_format="RGB", use_instance_mask=True, instance_mask_format="bitmask")


def _mapper(augmentations=(), is_train=True, **changes):
    settings = {**SETTINGS, "num_semantic_classes": 6, **changes}
    return InstanceSemanticMapper(is_train=is_train, augmentations=list(augmentations), **settings)


def _labels():
    """Class 5 above, ignored below, class 1 where the object is."""
    labels = np.full((20, 30), 5, np.uint8)
    labels[15:] = 255
    labels[3:8, 2:8] = 1
    return labels


def _record(tmp_path, labels=None, **changes):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(_labels() if labels is None else labels).save(tmp_path / "a_labels.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "sem_seg_file_name": str(tmp_path / "a_labels.png"),
        "height": 20,
        "width": 30,
        "image_id": 1,
        "annotations": [
            {
                "bbox": [2, 3, 6, 5],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "segmentation": [[2, 3, 8, 3, 8, 8, 2, 8]],
            }
        ],
        **changes,
    }
    return {key: value for key, value in record.items() if value is not ABSENT}


def test_labels_follow_the_augmentations(tmp_path):
    augmentations = [T.RandomFlip(prob=1.0), T.ResizeTransform(20, 30, 40, 60)]
    mapped = _mapper(augmentations)(_record(tmp_path))
    assert mapped["sem_seg"].dtype == torch.int64
    expected = _labels()[:, ::-1].repeat(2, 0).repeat(2, 1)
    assert np.array_equal(mapped["sem_seg"].numpy(), expected)
    (mask,) = mapped["instances"].gt_masks.tensor
    assert torch.equal(mask, mapped["sem_seg"] == 1)


def test_objects_are_jittered_but_not_labels(tmp_path):
    np.random.seed(0)
    record = _record(tmp_path)
    mapped = _mapper(instance_jitter=InstanceJitter(probability=1.0))(record)
    assert np.array_equal(mapped["sem_seg"].numpy(), _labels())
    (box,) = mapped["instances"].gt_boxes.tensor.tolist()
    assert box != [2, 3, 8, 8] and box == pytest.approx([2, 3, 8, 8], abs=2)
    assert record["annotations"][0]["bbox"] == [2, 3, 6, 5]


def test_records_without_annotations_are_not_jittered(tmp_path):
    record = _record(tmp_path)
    del record["annotations"]
    mapped = _mapper(instance_jitter=InstanceJitter(probability=1.0))(record)
    assert "instances" not in mapped


def test_testing_reads_neither_labels_nor_annotations(tmp_path):
    record = _record(tmp_path, sem_seg_file_name="no_such_file.png")
    jitter = InstanceJitter(probability=1.0)
    mapped = _mapper(is_train=False, instance_jitter=jitter)(record)
    assert set(mapped) == {"file_name", "height", "width", "image_id", "image"}
    assert not mapped["image"].any()


def test_a_missing_label_map_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no_such_file\.png"):
        _mapper()(_record(tmp_path, sem_seg_file_name=str(tmp_path / "no_such_file.png")))
    with pytest.raises(ValueError, match=r"a\.png has no 'sem_seg_file_name'.*label_root.*null"):
        _mapper()(_record(tmp_path, sem_seg_file_name=ABSENT))


@pytest.mark.parametrize("file_name", [ABSENT, "no_such_file.png"])
def test_models_without_semantic_classes_need_no_label_maps(tmp_path, file_name):
    mapper = _mapper(num_semantic_classes=None)
    mapped = mapper(_record(tmp_path, sem_seg_file_name=file_name))
    assert "sem_seg" not in mapped and len(mapped["instances"]) == 1


def test_labels_of_no_class_are_an_error_that_names_the_file(tmp_path):
    labels = _labels()
    labels[0, 0] = 6
    with pytest.raises(ValueError, match=r"a_labels\.png has the values 6 in 1 pixels.*6 classes"):
        _mapper()(_record(tmp_path, labels))


def test_labels_of_another_size_are_an_error_that_names_both_files(tmp_path):
    with pytest.raises(
        ValueError, match=r"a\.png has 30 x 20 pixels.*a_labels\.png has 29 x 20\. They must have"
    ):
        _mapper()(_record(tmp_path, _labels()[:, 1:]))


def test_unreadable_labels_are_an_error_that_names_the_file(tmp_path):
    record = _record(tmp_path, np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a_labels\.png has pixels of mode RGB.*one channel"):
        _mapper()(record)
    file = tmp_path / "a_labels.png"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"a_labels\.png"):
        _mapper()(record)


@pytest.mark.parametrize("key", ["segmentation", "bbox"])
def test_a_corrupt_annotation_is_named_with_its_image(tmp_path, key):
    record = _record(tmp_path)
    del record["annotations"][0][key]
    mapper = _mapper(instance_jitter=InstanceJitter(probability=1.0))
    with pytest.raises(ValueError, match=rf"annotation of .*a\.png is corrupt: KeyError\('{key}'"):
        mapper(record)
