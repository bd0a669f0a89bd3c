"""Custom data in COCO's panoptic format: what is registered, and what is refused with reasons."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import ExifTags, Image

from vit_adapter.data import (
    PanopticMapper,
    generate_shapes,
    register_panoptic_format,
    thing_ids,
)
from vit_adapter.data.catalog import unregister
from vit_adapter.data.image_io import colours_of_ids, read_segment_ids
from vit_adapter.data.panoptic import map_checks

NAME = "panoptic_of_a_test"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "shapes"
    return generate_shapes(folder, num_train=3, num_val=1, image_size=64, seed=1)


@pytest.fixture
def data(source: Path, tmp_path: Path) -> Iterator["Data"]:
    """Three images of shapes that a test may change."""
    yield Data(Path(shutil.copytree(source, tmp_path / "shapes")))
    unregister(NAME)


class Data:
    """Files of a small data set."""

    def __init__(self, root: Path) -> None:
        self.images, self.maps = root / "train", root / "panoptic_train"
        self.json_file = root / "annotations/panoptic_train.json"
        self.content = json.loads(self.json_file.read_text())

    @property
    def segments(self) -> list[dict]:
        """The segments of the first image."""
        return self.content["annotations"][0]["segments_info"]

    def register(self, **options: bool | int) -> list[dict]:
        self.json_file.write_text(json.dumps(self.content))
        register_panoptic_format(NAME, self.json_file, self.maps, self.images, **options)
        return DatasetCatalog.get(NAME)

    def change_map(self, change: Callable[[np.ndarray], np.ndarray], image: int = 1) -> None:
        file = self.maps / f"{image:06d}.png"
        Image.fromarray(colours_of_ids(change(read_segment_ids(file)))).save(file)


def test_records_and_metadata(data: Data) -> None:
    records = data.register()
    assert len(records) == 3
    record, image = records[1], data.content["images"][1]
    assert record["file_name"] == str(data.images / "000002.png")
    assert record["pan_seg_file_name"] == str(data.maps / "000002.png")
    assert (record["image_id"], record["height"], record["width"]) == (image["id"], 64, 64)
    for segment, entry in zip(
        record["segments_info"], data.content["annotations"][1]["segments_info"], strict=True
    ):
        label = entry["category_id"] - 1
        assert segment == {**entry, "category_id": label, "isthing": label < 3}
    metadata = MetadataCatalog.get(NAME)
    assert metadata.stuff_classes == ["circle", "square", "triangle", "speckle", "stripes"]
    assert metadata.stuff_colors[0] == (213, 94, 0)
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2}
    assert metadata.stuff_dataset_id_to_contiguous_id == {4: 3, 5: 4}
    assert metadata.panoptic_json == str(data.json_file)
    assert metadata.evaluator_type == "coco_panoptic_seg"
    records[0]["image"] = 1  # changes nothing for others
    assert "image" not in DatasetCatalog.get(NAME)[0]


def test_things_come_first_in_the_order_of_their_ids(data: Data) -> None:
    for category in data.content["categories"]:
        category["isthing"] = int(category["name"] in ("square", "stripes", "triangle"))
        category["id"] = 100 - category["id"]
        del category["color"]
    for annotation in data.content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = 100 - segment["category_id"]
        circles = [s for s in annotation["segments_info"] if s["category_id"] == 99]
        for segment in circles:  # stuff now, which has one segment in an image
            annotation["segments_info"].remove(segment)
            data.change_map(
                lambda ids, i=segment["id"]: np.where(ids == i, 0, ids), annotation["image_id"]
            )
    records = data.register()
    metadata = MetadataCatalog.get(NAME)
    assert metadata.stuff_classes == ["stripes", "triangle", "square", "speckle", "circle"]
    assert thing_ids(NAME) == [0, 1, 2]
    assert metadata.thing_dataset_id_to_contiguous_id == {95: 0, 97: 1, 98: 2}
    assert all(s["isthing"] == (s["category_id"] < 3) for r in records for s in r["segments_info"])
    assert len(set(metadata.stuff_colors)) == 5


def test_values_of_other_types_are_read_as_what_they_mean(data: Data) -> None:
    usual = data.register()
    unregister(NAME)
    for annotation in data.content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
        for segment in annotation["segments_info"]:
            segment.update(id=float(segment["id"]), category_id=str(segment["category_id"]))
            segment.update(iscrowd="0")
    for category in data.content["categories"]:
        category["isthing"] = bool(category["isthing"])
    assert data.register() == usual


def test_crowds_and_pixels_without_a_label_are_allowed(data: Data) -> None:
    data.segments[0]["iscrowd"] = 1
    data.change_map(lambda ids: np.where(ids == data.segments[1]["id"], 0, ids))
    del data.segments[1]
    assert data.register()[0]["segments_info"][0]["iscrowd"] == 1


def test_maps_are_read_upright(data: Data) -> None:
    """Their EXIF orientation counts, as that of images does."""
    file = data.maps / "000001.png"
    ids = read_segment_ids(file)[:40]
    data.segments[:] = [segment for segment in data.segments if segment["id"] in ids]
    data.content["images"][0]["height"] = 40
    Image.new("RGB", (64, 40)).save(data.images / "000001.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # shown turned to the right
    stored = Image.fromarray(colours_of_ids(ids)).transpose(Image.Transpose.ROTATE_90)
    stored.save(file, exif=exif)
    mapper = PanopticMapper(is_train=True, augmentations=[], image_format="RGB")
    assert len(mapper(data.register()[0])["instances"]) == len(data.segments)


def test_images_of_more_channels_than_rows(data: Data) -> None:
    for image in data.content["images"]:
        image["file_name"] = f"{image['id']}.npy"
        np.save(data.images / image["file_name"], np.zeros((64, 64, 80), np.uint8))
    assert len(data.register(image_format=80)) == 3


def test_a_missing_isthing_is_the_only_problem(data: Data) -> None:
    del data.content["categories"][0]["isthing"]
    with pytest.raises(ValueError, match=r"cannot be used:\n- 1 x category whose [^\n]*$"):
        data.register()


def no_annotation(data: Data) -> None:
    del data.content["annotations"][0]


def no_segments(data: Data) -> None:
    data.segments.clear()
    data.change_map(np.zeros_like)


def unlisted_id(data: Data) -> None:
    data.change_map(lambda ids: np.where(ids == 1, 777, ids))
    data.segments[0]["id"] = 1


def smaller_map(data: Data) -> None:
    data.change_map(lambda ids: ids[:60])


def grey_map(data: Data) -> None:
    Image.new("L", (64, 64)).save(data.maps / "000001.png")


def same_stuff_twice(data: Data) -> None:
    data.change_map(lambda ids: np.where(ids == 1, 500, ids))
    data.segments[0].update(id=500, category_id=data.segments[-1]["category_id"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unlisted_id, r"an id that its 'segments_info' does not list.*: 000001.png \(777\)"),
        (
            lambda data: data.segments.append({**data.segments[0], "id": 40}),
            r"segment without a pixel in its segment map.*: 000001.png \(40\)",
        ),
        (
            lambda data: data.segments.append(dict(data.segments[0])),
            r"segment id that occurs twice in one image.*: segment 1 in 000001.png of image 1",
        ),
        (
            lambda data: data.segments[0].update(category_id=9),
            r"'categories' does not list \(\[1, 2, 3, 4, 5\]\): segment 1 in 000001.png .*id=9",
        ),
        (smaller_map, r"size is not the 'height' and 'width' .*: 000001.png \(60 and 64, not 64"),
        (grey_map, r"map that cannot be used: .*000001.png has pixels of mode L"),
        (no_segments, r"image without any segment.*: 000001.png of image 1 \(000001.png\)"),
        (no_annotation, r"image without any segment.*: image 1 \(000001.png\)"),
        (same_stuff_twice, r"second segment of the same stuff.*: segment .* in 000001.png"),
        (
            lambda data: (data.maps / "000002.png").unlink(),
            r"segment map missing in .*panoptic_train.*: 000002.png",
        ),
        (lambda data: (data.images / "000002.png").unlink(), r"image file missing.*: 000002.png"),
        (
            lambda data: data.content["categories"][2].pop("isthing"),
            r"'isthing' is neither 1, for objects, nor 0.*: 3 \('triangle', isthing=None\)",
        ),
        (
            lambda data: data.content["annotations"].append(data.content["annotations"][0]),
            r"image with more than one annotation: image 1 \(000001.png\)",
        ),
        (
            lambda data: data.content["annotations"][0].update(image_id=8),
            r"image that 'images' does not list: annotations\[0\] \(image_id=8\)",
        ),
        (
            lambda data: data.content["annotations"][0].update(segments_info=None),
            r"'segments_info' is not a list of objects: image 1 \(000001.png\)",
        ),
        (
            lambda data: data.content["annotations"][0].pop("file_name"),
            r"without the 'file_name' of its segment map: image 1 \(000001.png\)",
        ),
        (
            lambda data: data.segments[0].update(id=0),
            r"'id' is not an integer from 1 to 16777215: segment 0 in 000001.png",
        ),
        (
            lambda data: data.segments[0].update(iscrowd=2),
            r"'iscrowd' is neither 0 nor 1: segment 1 in 000001.png .*iscrowd=2",
        ),
        (lambda data: data.content.pop("annotations"), "panoptic_train.json has no 'annotations'"),
    ],
)
def test_broken_data_are_named(data: Data, change: Callable[[Data], object], message: str) -> None:
    change(data)
    with pytest.raises(ValueError, match=message):
        data.register()
    assert NAME not in DatasetCatalog


def test_missing_folders_are_named(data: Data) -> None:
    data.maps = data.maps / "gone"
    with pytest.raises(FileNotFoundError, match="panoptic_train/gone .* of the 'annotations' in"):
        data.register()
    data.images = data.images / "gone"
    with pytest.raises(FileNotFoundError, match="train/gone .* of the 'images' in"):
        data.register()


def test_only_some_maps_of_a_large_data_set_are_read(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_checks, "_NUM_READ", 2)  # the first and the second of three
    data.change_map(lambda ids: np.where(ids == 1, 777, ids), image=3)
    assert data.register()
    unregister(NAME)
    with pytest.raises(ValueError, match=r"does not list.*: 000003.png \(777\)"):
        data.register(check_all=True)
