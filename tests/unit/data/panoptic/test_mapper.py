"""The mapper of panoptic data: targets follow the augmented image; errors name the files."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from fvcore.transforms.transform import PadTransform
from PIL import Image

from vit_adapter.data import PanopticMapper, coco_panoptic_train, large_scale_jitter
from vit_adapter.data.image_io import colours_of_ids, read_segment_ids

# The id of white is also the value of a padding in some versions of Detectron2.
WHITE = 256**3 - 1
IDS = np.zeros((6, 9), int)
IDS[:3, :4], IDS[:3, 4:], IDS[3:, :4], IDS[3:, 4:8] = 70_000, 255, WHITE, 9
SEGMENTS = [
    {"id": 9, "category_id": 0, "isthing": True, "iscrowd": 1},
    {"id": 70_000, "category_id": 2, "isthing": True, "iscrowd": 0},
    {"id": 255, "category_id": 2, "isthing": True, "iscrowd": 0},
    {"id": WHITE, "category_id": 5, "isthing": False},
]


@pytest.fixture
def record(tmp_path: Path) -> dict:
    """An image whose pixels show the segments, with a crowd and pixels without a label."""
    Image.fromarray(colours_of_ids(IDS)).save(tmp_path / "image.png")
    Image.fromarray(colours_of_ids(IDS)).save(tmp_path / "map.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "pan_seg_file_name": str(tmp_path / "map.png"),
        "image_id": 4,
        "segments_info": SEGMENTS,
    }


def mapper(*augmentations: T.Augmentation, is_train: bool = True) -> PanopticMapper:
    return PanopticMapper(is_train=is_train, augmentations=augmentations, image_format="RGB")


def pixels_with(image: torch.Tensor, segment_id: int) -> torch.Tensor:
    """Where an image (3, H, W) has the colour of an id."""
    colour = torch.from_numpy(colours_of_ids(np.array([[segment_id]]))[0, 0])
    return (image == colour[:, None, None]).all(0)


def test_each_segment_is_a_target_apart_from_crowds(record: dict) -> None:
    before = copy.deepcopy(record)
    mapped = mapper()(record)
    assert record == before
    assert (mapped["height"], mapped["width"], mapped["image_id"]) == (6, 9, 4)
    assert set(mapped) - set(record) == {"image", "instances", "height", "width"}
    assert set(record) - set(mapped) == {"pan_seg_file_name", "segments_info"}
    instances = mapped["instances"]
    assert instances.gt_classes.tolist() == [2, 2, 5]
    masks = [IDS == segment_id for segment_id in (70_000, 255, WHITE)]
    assert np.array_equal(instances.gt_masks.tensor, masks)


@pytest.mark.parametrize("augmentation", [T.RandomFlip(1.0), T.CropTransform(3, 1, 6, 4)])
def test_masks_follow_the_image(record: dict, augmentation: object) -> None:
    mapped = mapper(augmentation)(record)
    expected = [pixels_with(mapped["image"], i) for i in (70_000, 255, WHITE)]
    assert torch.equal(mapped["instances"].gt_masks.tensor, torch.stack(expected))


def test_resized_masks_do_not_mix(record: dict) -> None:
    masks = mapper(T.ResizeTransform(6, 9, 6, 18))(record)["instances"].gt_masks.tensor
    assert masks.sum((1, 2)).tolist() == [24, 30, 24]


def test_segments_outside_a_crop_are_dropped(record: dict) -> None:
    instances = mapper(T.CropTransform(4, 0, 5, 6))(record)["instances"]
    assert instances.gt_classes.tolist() == [2]
    assert len(instances.gt_masks) == 1
    nothing = mapper(T.CropTransform(8, 3, 1, 3))(record)["instances"]
    assert nothing.gt_classes.dtype == torch.int64
    assert nothing.gt_masks.tensor.shape == (0, 3, 1)


@pytest.mark.parametrize("value", [0, 255])
def test_padding_has_no_label(record: dict, value: int) -> None:
    pad = PadTransform(0, 0, 2, 3, pad_value=128, seg_pad_value=value)
    masks = mapper(pad)(record)["instances"].gt_masks.tensor
    assert masks.shape[1:] == (9, 11)
    assert masks.sum((1, 2)).tolist() == [12, 15, 12]


def test_more_segments_than_a_byte_counts(tmp_path: Path) -> None:
    ids = 3 * np.arange(1, 401).reshape(20, 20)
    Image.fromarray(colours_of_ids(ids)).save(tmp_path / "map.png")
    record = {
        "file_name": str(tmp_path / "map.png"),
        "pan_seg_file_name": str(tmp_path / "map.png"),
        "segments_info": [
            {"id": int(i), "category_id": int(i) % 7, "isthing": True} for i in ids.flat
        ],
    }
    instances = mapper()(record)["instances"]
    assert len(instances) == 400
    assert instances.gt_classes.tolist() == [int(i) % 7 for i in ids.flat]
    assert (instances.gt_masks.tensor.sum((1, 2)) == 1).all()


@pytest.mark.parametrize("augmentations", [large_scale_jitter(64), coco_panoptic_train()])
def test_shapes_with_the_training_augmentations(registered_shapes, augmentations) -> None:
    record = DatasetCatalog.get("shapes_train_panoptic")[0]
    for _ in range(4):
        mapped = mapper(*augmentations)(record)
        masks = mapped["instances"].gt_masks.tensor
        assert masks.shape[1:] == mapped["image"].shape[1:]
        assert (masks.sum(0) <= 1).all()
        assert masks.flatten(1).any(1).all()


def test_without_labels_for_testing(record: dict) -> None:
    Path(record["pan_seg_file_name"]).unlink()
    mapped = mapper(T.RandomFlip(1.0), is_train=False)(record)
    assert set(mapped) - set(record) == {"image", "height", "width"}
    assert mapped["segments_info"] == SEGMENTS


@pytest.mark.parametrize("is_train", [True, False])
def test_the_segment_map_shows_how_the_image_is_turned(tmp_path: Path, is_train: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored image has to be turned by 90 degrees
    Image.fromarray(colours_of_ids(IDS)).save(tmp_path / "photo.jpg", exif=exif)
    for ids in (IDS, IDS.T):
        Image.fromarray(colours_of_ids(ids)).save(tmp_path / "map.png")
        files = {"file_name": tmp_path / "photo.jpg", "pan_seg_file_name": tmp_path / "map.png"}
        mapped = mapper(is_train=is_train)({**files, "segments_info": SEGMENTS})
        assert mapped["image"].shape[1:] == ids.shape


def test_errors_name_the_files(record: dict, tmp_path: Path) -> None:
    assert np.array_equal(read_segment_ids(record["pan_seg_file_name"]), IDS)
    with pytest.raises(ValueError, match=r"map.png has the ids \[255, 16777215\].*image.png"):
        mapper()({**record, "segments_info": SEGMENTS[:2]})
    Image.fromarray(colours_of_ids(IDS[:5])).save(tmp_path / "low.png")
    with pytest.raises(ValueError, match=r"image.png has 9 x 6 .* map .*low.png has 9 x 5"):
        mapper()({**record, "pan_seg_file_name": str(tmp_path / "low.png")})
    with pytest.raises(SizeMismatchError):
        mapper()({**record, "height": 5, "width": 9})
    with pytest.raises(ValueError, match="image.png has no 'pan_seg_file_name'"):
        mapper()({key: record[key] for key in ("file_name", "segments_info")})
    with pytest.raises(ValueError, match=r"Augmenting .*image.png of 9 x 6 pixels .*: no shear"):
        mapper(Failing())(record)


class Failing(T.Augmentation):
    """Cannot augment any image."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        raise ValueError("no shear")
