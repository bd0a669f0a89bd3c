"""Label maps beside the instances of a data set."""

import json

import pytest
from PIL import Image

from vit_adapter.data import instances_with_label_maps, register_coco_format
from vit_adapter.data.catalog import unregister


@pytest.fixture
def custom_data(tmp_path):
    """Three images, of which one has no annotations, and a folder with their label maps."""
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 30} for i in range(3)]
    box = {"bbox": [2, 3, 6, 5], "area": 30, "iscrowd": 0, "category_id": 1}
    segmentation = [[2, 3, 8, 3, 8, 8, 2, 8]]
    annotations = [
        {"id": i + 1, "image_id": i, "segmentation": segmentation, **box} for i in range(2)
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "data.json").write_text(json.dumps(content))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(3):
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / f"{i}.jpg")
        Image.new("L", (30, 20)).save(tmp_path / "labels" / f"{i}.png")
    register_coco_format("with_maps", tmp_path / "data.json", tmp_path / "images")
    yield tmp_path
    unregister("with_maps")


def test_records_get_the_maps_of_their_names(custom_data, monkeypatch):
    expected = [str(custom_data / "labels" / f"{i}.png") for i in range(2)]
    for root, base in ((str(custom_data / "labels"), "elsewhere"), ("labels", str(custom_data))):
        monkeypatch.setenv("DETECTRON2_DATASETS", base)
        records = instances_with_label_maps(names="with_maps", label_root=root)
        assert [record["sem_seg_file_name"] for record in records] == expected
    everything = instances_with_label_maps(
        names="with_maps", label_root=str(custom_data / "labels"), filter_empty=False
    )
    assert len(everything) == 3
    # The records of the data set itself are as before.
    assert "sem_seg_file_name" not in instances_with_label_maps(names="with_maps")[0]


def test_missing_maps_are_found_before_training(custom_data):
    root = custom_data / "labels"
    (root / "1.png").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"1 of 2 images .*labels/1\.png \(file not found.*semantic_head=null",
    ):
        instances_with_label_maps(names="with_maps", label_root=str(root))
    with pytest.raises(
        FileNotFoundError, match=r"no_such does not exist.*label_root.*semantic_head=null"
    ):
        instances_with_label_maps(names="with_maps", label_root=str(custom_data / "no_such"))


def test_maps_must_belong_to_one_image(custom_data):
    with pytest.raises(ValueError, match=r"Several images .*labels/0\.png"):
        instances_with_label_maps(
            names=["with_maps", "with_maps"], label_root=str(custom_data / "labels")
        )
