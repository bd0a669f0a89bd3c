"""Targets from label maps and instances, and what is refused."""

import pytest
import torch
from detectron2.data.detection_utils import annotations_to_instances, filter_empty_instances
from detectron2.structures import BitMasks, Instances, PolygonMasks

from vit_adapter.mask2former import MaskTargets, prepare_targets

CPU = torch.device("cpu")
IMAGE = torch.zeros(3, 2, 3, dtype=torch.uint8)


def prepare(inputs: dict, padded_size: tuple[int, int] = (2, 3), num_classes: int = 4) -> list:
    inputs = {"image": IMAGE, "file_name": "a.jpg", **inputs}
    return prepare_targets([inputs], num_classes=num_classes, padded_size=padded_size, device=CPU)


def instances(labels: list[int], masks: object) -> Instances:
    result = Instances((2, 3))
    result.gt_classes = torch.tensor(labels, dtype=torch.int64)
    result.gt_masks = masks
    return result


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_one_mask_for_each_class(dtype: torch.dtype) -> None:
    sem_seg = torch.tensor([[3, 0, 255], [3, 3, 0]], dtype=dtype)
    (target,) = prepare({"sem_seg": sem_seg}, padded_size=(3, 4))
    assert target.labels.tolist() == [0, 3]
    assert target.labels.dtype == torch.int64
    assert target.masks.int().tolist() == [
        [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]],
    ]


def test_an_ignored_image_has_no_targets() -> None:
    (target,) = prepare({"sem_seg": torch.full((2, 3), 255)})
    assert target.labels.shape == (0,)
    assert target.masks.shape == (0, 2, 3)


@pytest.mark.parametrize("kind", [BitMasks, torch.Tensor])
def test_instances(kind: type) -> None:
    masks = torch.rand(2, 2, 3) > 0.5
    given = BitMasks(masks) if kind is BitMasks else masks
    (target,) = prepare({"instances": instances([1, 1], given)})
    assert isinstance(target, MaskTargets)
    assert target.labels.tolist() == [1, 1]
    assert torch.equal(target.masks, masks)


def test_instances_take_precedence_over_the_label_map() -> None:
    masks = torch.ones(1, 2, 3, dtype=torch.bool)
    given = {"instances": instances([2], masks), "sem_seg": torch.zeros(2, 3)}
    assert prepare(given)[0].labels.tolist() == [2]


def test_no_instances() -> None:
    (target,) = prepare({"instances": instances([], torch.zeros(0, 2, 3))}, padded_size=(4, 4))
    assert target.masks.shape == (0, 4, 4)


def test_an_unannotated_image_from_detectron2s_mapper() -> None:
    mapped = filter_empty_instances(annotations_to_instances([], (2, 3), mask_format="bitmask"))
    (target,) = prepare({"instances": mapped}, padded_size=(4, 4))
    assert target.labels.shape == (0,)
    assert target.masks.shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"sem_seg": torch.tensor([[0, 4, 9], [1, 255, 0]])}, r"0 to 3 .* classes, got \[4, 9\]"),
        ({"sem_seg": torch.tensor([[0, -1, 0], [1, 255, 0]])}, r"got \[-1\]"),
        ({"sem_seg": torch.zeros(3, 2)}, "labels are 3 x 2 .*, but the image is 2 x 3"),
        ({"sem_seg": torch.zeros(1, 2, 3)}, r"must be \(H, W\), got shape \(1, 2, 3\)"),
        ({}, r"needs \"sem_seg\" or \"instances\", got only \['file_name', 'image'\]"),
        ({"instances": instances([4], torch.zeros(1, 2, 3))}, r"gt_classes .* got \[4\]"),
        ({"instances": instances([1], torch.zeros(1, 3, 3))}, "labels are 3 x 3"),
        (
            {"instances": instances([1], PolygonMasks([[[0.0, 0.0, 1.0, 0.0, 1.0, 1.0]]]))},
            "got PolygonMasks; set the mapper's instance_mask_format to 'bitmask'",
        ),
        ({"instances": Instances((2, 3))}, "got NoneType"),
    ],
)
def test_errors_name_the_file(inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^a.jpg: .*{message}"):
        prepare(inputs)
