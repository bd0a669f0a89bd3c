"""The generated data set: files, formats, catalogs, and errors while it is written."""

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog, transforms as T
from detectron2.data.datasets.coco import load_coco_json
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from vit_adapter.data.shapes import catalog, writer
from vit_adapter.data.shapes.catalog import default_root, generate_shapes, register_shapes
from vit_adapter.data.shapes.scene import STUFF_CLASSES, THING_CLASSES, draw_scene

SIZE = dict(num_train=6, num_val=4, image_size=96, seed=3)  # as in conftest
NAMES = [
    f"shapes_{split}{ending}"
    for split in ("train", "val")
    for ending in ("", "_sem_seg", "_panoptic", "_panoptic_separated", "_panoptic_stuffonly")
]


def _digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _scene(split_index: int, image_id: int):
    return draw_scene(np.random.default_rng([3, split_index, image_id - 1]), 96)


def _picture(root: Path, folder: str, image_id: int) -> np.ndarray:
    return np.asarray(Image.open(root / folder / f"{image_id:06d}.png"))


# ---------------------------------------------------------------- writing


def test_equal_seeds_give_equal_bytes(shapes_root, tmp_path):
    assert _digest(generate_shapes(tmp_path / "again", **SIZE)) == _digest(shapes_root)


def test_images_depend_on_the_seed_and_not_on_their_number(shapes_root, tmp_path):
    other = generate_shapes(tmp_path / "other", **{**SIZE, "seed": 4})
    assert not np.array_equal(_picture(other, "val", 1), _picture(shapes_root, "val", 1))
    longer = generate_shapes(tmp_path / "longer", **{**SIZE, "num_val": 5})
    assert np.array_equal(_picture(longer, "val", 4), _picture(shapes_root, "val", 4))
    assert not np.array_equal(_picture(shapes_root, "train", 1), _picture(shapes_root, "val", 1))


def test_an_existing_set_is_not_touched(shapes_root):
    before = {path: path.stat().st_mtime_ns for path in shapes_root.rglob("*")}
    assert generate_shapes(shapes_root, **SIZE) == shapes_root
    assert {path: path.stat().st_mtime_ns for path in shapes_root.rglob("*")} == before


def test_other_arguments_are_refused_for_an_existing_set(shapes_root):
    with pytest.raises(ValueError, match="(?s)'seed': 3.*'seed': 5.*Remove that folder"):
        generate_shapes(shapes_root, **{**SIZE, "seed": 5})


def test_an_unrelated_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "thesis.txt").write_text("keep me")
    with pytest.raises(ValueError, match="does not hold the generated shapes"):
        generate_shapes(tmp_path / "shapes", **SIZE)
    assert [path.name for path in (tmp_path / "shapes").iterdir()] == ["thesis.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_damaged_set_is_refused(tmp_path):
    root = generate_shapes(tmp_path / "shapes", **SIZE)
    (root / "semantic_val" / "000002.png").unlink()
    with pytest.raises(ValueError, match="1 files are missing in .*semantic_val/000002.png"):
        generate_shapes(root, **SIZE)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "shapes").mkdir()
    assert (generate_shapes(tmp_path / "shapes", **SIZE) / "shapes.json").is_file()


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(rng, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "draw_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path / "shapes", **SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_generation_leaves_no_data_set(tmp_path):
    def die(rng, size):
        os._exit(1)

    def run():
        catalog.draw_scene = die
        generate_shapes(tmp_path / "shapes", **SIZE)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 1
    assert not (tmp_path / "shapes").exists()
    assert _digest(generate_shapes(tmp_path / "shapes", **SIZE))


def _generate_when_told(root, start, results):
    start.wait()
    results.put(str(generate_shapes(root, **SIZE)))


def test_racing_processes_all_get_a_valid_set(shapes_root, tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(3), context.Queue()
    root = tmp_path / "shapes"
    processes = [
        context.Process(target=_generate_when_told, args=(root, start, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    assert {results.get(timeout=300) for _ in processes} == {str(root)}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert _digest(root) == _digest(shapes_root)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_losing_a_race_with_other_arguments_is_an_error(tmp_path, monkeypatch):
    root = tmp_path / "shapes"
    original = catalog._write_all

    def be_overtaken(folder, info):
        monkeypatch.setattr(catalog, "_write_all", original)
        generate_shapes(root, **{**SIZE, "seed": 9})
        original(folder, info)

    monkeypatch.setattr(catalog, "_write_all", be_overtaken)
    with pytest.raises(ValueError, match="'seed': 9"):
        generate_shapes(root, **SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@pytest.mark.parametrize(
    ("key", "value"), [("num_train", 0), ("num_val", -1), ("image_size", 32), ("seed", -1)]
)
def test_arguments_out_of_range_are_named(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"{key} must be at least .*, got {value}"):
        generate_shapes(tmp_path / "shapes", **{**SIZE, key: value})
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize(("split_index", "split", "count"), [(0, "train", 6), (1, "val", 4)])
def test_instances_equal_the_drawn_truth(shapes_root, split_index, split, count):
    coco = COCO(str(writer.instances_json(shapes_root, split)))
    assert sorted(coco.imgs) == list(range(1, count + 1))
    assert [c["name"] for c in coco.loadCats(sorted(coco.getCatIds()))] == list(THING_CLASSES)
    for image_id in coco.imgs:
        scene = _scene(split_index, image_id)
        assert np.array_equal(_picture(shapes_root, split, image_id), scene.image)
        annotations = coco.imgToAnns[image_id]
        assert len(annotations) == len(scene.categories)
        for index, annotation in enumerate(annotations):
            mask = coco.annToMask(annotation).astype(bool)
            assert np.array_equal(mask, scene.segments == index + 1)
            assert annotation["category_id"] == scene.categories[index] + 1
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
            y, x = np.nonzero(mask)
            expected = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            assert annotation["bbox"] == expected


def test_masks_of_one_image_never_overlap(shapes_root):
    coco = COCO(str(writer.instances_json(shapes_root, "train")))
    for image_id in coco.imgs:
        codes = [annotation["segmentation"] for annotation in coco.imgToAnns[image_id]]
        covered = sum(mask_util.decode(code).astype(int) for code in codes)
        assert covered.max() == 1


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("val", 4)])
def test_semantic_labels_are_the_union_of_the_instances(shapes_root, split, count):
    coco = COCO(str(writer.instances_json(shapes_root, split)))
    for image_id in range(1, count + 1):
        semantic = _picture(shapes_root, f"semantic_{split}", image_id)
        stuff = _picture(shapes_root, f"stuff_{split}", image_id)
        for category in range(len(THING_CLASSES)):
            union = np.zeros(semantic.shape, bool)
            for annotation in coco.imgToAnns[image_id]:
                if annotation["category_id"] == category + 1:
                    union |= coco.annToMask(annotation).astype(bool)
            assert np.array_equal(semantic == category, union)
        assert np.array_equal(stuff == 0, semantic < len(THING_CLASSES))
        on_ground = stuff > 0
        assert np.array_equal(stuff[on_ground] + 2, semantic[on_ground])
        assert semantic.max() < len(THING_CLASSES) + len(STUFF_CLASSES)


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("val", 4)])
def test_panoptic_files_follow_the_format(shapes_root, split, count):
    content = json.loads(writer.panoptic_json(shapes_root, split).read_text())
    categories = {category["id"]: category for category in content["categories"]}
    assert [c["isthing"] for c in content["categories"]] == [1, 1, 1, 0, 0]
    assert [image["id"] for image in content["images"]] == list(range(1, count + 1))
    coco = COCO(str(writer.instances_json(shapes_root, split)))
    for annotation in content["annotations"]:
        coded = _picture(shapes_root, f"panoptic_{split}", annotation["image_id"]).astype(int)
        ids = coded[..., 0] + 256 * coded[..., 1] + 256**2 * coded[..., 2]
        semantic = _picture(shapes_root, f"semantic_{split}", annotation["image_id"])
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) == set(segments)  # no void, nothing unlisted
        for segment_id, segment in segments.items():
            mask = ids == segment_id
            assert segment["area"] == mask.sum() and segment["iscrowd"] == 0
            code = mask_util.encode(np.asfortranarray(mask, np.uint8))
            assert segment["bbox"] == list(mask_util.toBbox(code))
            assert set(np.unique(semantic[mask])) == {segment["category_id"] - 1}
        things = [s for s in segments.values() if categories[s["category_id"]]["isthing"]]
        assert len(things) == len(coco.imgToAnns[annotation["image_id"]])
        stuff = [s["category_id"] for s in segments.values() if s not in things]
        assert len(stuff) == len(set(stuff))  # stuff is one segment for each class


# ---------------------------------------------------------------- catalogs


def test_default_names_are_registered_on_import_without_writing():
    import vit_adapter.data  # noqa: F401

    assert set(NAMES) <= set(DatasetCatalog.list())
    json_file = Path(MetadataCatalog.get("shapes_val").json_file)
    assert json_file.is_absolute() and json_file.parents[1].name == default_root().name


def test_default_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert default_root() == tmp_path / "shapes"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    assert default_root() == tmp_path / "datasets" / "shapes"


def test_data_are_generated_on_first_use(tmp_path):
    root = tmp_path / "deep" / "shapes"
    register_shapes(root, **SIZE)
    try:
        assert not root.exists()
        assert len(DatasetCatalog.get("shapes_val")) == 4
        assert root.is_dir()
        register_shapes(root, **SIZE)
        assert len(DatasetCatalog.get("shapes_train")) == 6
    finally:
        register_shapes()


def test_instance_records_equal_those_of_detectron2s_loader(registered_shapes):
    expected = load_coco_json(
        str(registered_shapes / "annotations" / "instances_train.json"),
        str(registered_shapes / "train"),
        "some_other_name",
    )
    assert DatasetCatalog.get("shapes_train") == expected
    loaded = MetadataCatalog.get("some_other_name")
    ours = MetadataCatalog.get("shapes_train")
    assert ours.thing_classes == loaded.thing_classes
    assert ours.thing_dataset_id_to_contiguous_id == loaded.thing_dataset_id_to_contiguous_id
    assert ours.evaluator_type == "coco" and ours.mask_format == "bitmask"
    assert len(ours.thing_colors) == 3


@pytest.mark.parametrize("name", NAMES)
def test_every_name_loads_and_its_metadata_fit(registered_shapes, name):
    records = DatasetCatalog.get(name)
    assert len(records) == (6 if "train" in name else 4)
    metadata = MetadataCatalog.get(name)
    for record in records:
        for key in ("file_name", "sem_seg_file_name", "pan_seg_file_name"):
            if key in record:
                assert Path(record[key]).is_file()
        if "sem_seg_file_name" in record:
            labels = np.asarray(Image.open(record["sem_seg_file_name"]))
            assert labels.max() < len(metadata.stuff_classes) == len(metadata.stuff_colors)
            assert str(Path(record["sem_seg_file_name"]).parent) == metadata.sem_seg_root
        if "annotations" in record:
            classes = {annotation["category_id"] for annotation in record["annotations"]}
            assert classes <= set(range(len(metadata.thing_classes)))


def test_panoptic_records_have_the_conventions_of_detectron2(registered_shapes):
    metadata = MetadataCatalog.get("shapes_val_panoptic")
    assert metadata.stuff_classes == [*THING_CLASSES, *STUFF_CLASSES]
    assert (metadata.ignore_label, metadata.label_divisor) == (255, 1000)
    for record in DatasetCatalog.get("shapes_val_panoptic"):
        assert {"image_id", "height", "width"} <= set(record)
        for segment in record["segments_info"]:
            assert segment["isthing"] == (segment["category_id"] < 3)
    separated = MetadataCatalog.get("shapes_val_panoptic_separated")
    assert separated.stuff_classes == ["things", *STUFF_CLASSES]
    assert separated.thing_classes == list(THING_CLASSES)


def test_detectron2s_own_mapper_reads_the_masks(registered_shapes):
    mapper = DatasetMapper(
        True,
        augmentations=[T.NoOpTransform()],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    for image_id, record in enumerate(DatasetCatalog.get("shapes_train_panoptic_separated"), 1):
        mapped, scene = mapper(record), _scene(0, image_id)
        assert torch.equal(mapped["image"], torch.from_numpy(scene.image.transpose(2, 0, 1).copy()))
        instances = mapped["instances"]
        assert instances.gt_classes.tolist() == list(scene.categories)
        for index, mask in enumerate(instances.gt_masks.tensor.numpy()):
            assert np.array_equal(mask, scene.segments == index + 1)
        drawn = instances.gt_masks.get_bounding_boxes()
        assert torch.equal(instances.gt_boxes.tensor, drawn.tensor)
        assert np.array_equal(mapped["sem_seg"].numpy() == 0, scene.segments > 0)
