"""The demo tool: what it finds, draws and writes, and its exit status."""

import json
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from demo_tool import CONFIG, TOOL, FakePredictor, files
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from omegaconf import OmegaConf
from PIL import Image

import vit_adapter
from vit_adapter import drawing
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.config.own_data import apply_custom_data
from vit_adapter.data import register_shapes
from vit_adapter.drawing import SEGMENT_OPACITY
from vit_adapter.engine.setup import save_config


class FakeSegmenter(FakePredictor):
    """Finds two of three classes, one in each half."""

    metadata = Metadata(
        stuff_classes=["road", "sky", "tree"],
        stuff_colors=[(250, 0, 0), (9, 9, 9), (0, 250, 0)],
    )

    def __call__(self, image):
        scores = torch.zeros(3, *image.shape[:2])
        half = image.shape[1] // 2
        scores[0, :, :half] = scores[2, :, half:] = 1.0
        return {"sem_seg": scores}


class FakePanopticPredictor(FakePredictor):
    """Finds a thing in the left half and stuff in the right one, except at the bottom."""

    metadata = Metadata(
        thing_classes=["half", "rest"],
        stuff_classes=["half", "rest"],
        thing_colors=[(250, 0, 0), (0, 250, 0)],
        stuff_colors=[(250, 0, 0), (0, 250, 0)],
    )

    def __call__(self, image):
        prediction = super().__call__(image)
        height, width = image.shape[:2]
        ids = torch.full((height, width), 2, dtype=torch.int32)
        ids[:, : width // 2] = 1
        ids[-height // 4 :] = 0
        segments = [
            {"id": 1, "isthing": True, "category_id": 0, "score": 0.9, "area": 900},
            {"id": 2, "isthing": False, "category_id": 1, "score": 0.8, "area": 900},
        ]
        return {**prediction, "panoptic_seg": (ids, segments)}


@pytest.fixture
def images(tmp_path):
    """A folder of images of several types, one in a sub-folder."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    picture = Image.new("RGB", (60, 40), (10, 20, 200))
    for name in ("b.png", "a.jpg", "sub/a.jpg", "c.tif"):
        picture.save(folder / name)
    picture.convert("L").save(folder / "grey.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_draws_a_folder(demo, images, tmp_path):
    assert demo("--input", images, "--output", tmp_path / "out") == 0
    assert files(tmp_path / "out") == ["a.jpg", "alpha.png", "b.png", "c.tif.png", "grey.png"]


def test_globs_and_files_are_drawn_once_and_keep_their_folders(demo, images, tmp_path):
    inputs = [f"{images}/**/*.jpg", images / "b.png", images / "a.jpg"]
    assert demo("--input", *inputs, "--output", tmp_path / "out") == 0
    assert files(tmp_path / "out") == ["a.jpg", "b.png", "sub/a.jpg"]


def test_limit_and_montage(demo, images, tmp_path):
    sheet = tmp_path / "sheets" / "sheet.png"
    assert (
        demo("--input", images, "--output", tmp_path / "out", "--limit", 3, "--montage", sheet) == 0
    )
    assert files(tmp_path / "out") == ["a.jpg", "alpha.png", "b.png"]
    width, height = Image.open(tmp_path / "out" / "a.jpg").size
    assert Image.open(sheet).size == (2 * width + 8, 2 * height + 8)


def test_masks_and_boxes_are_drawn_large_and_the_same_every_time(demo, images, tmp_path):
    for name in ("one", "two"):
        assert demo("--input", images / "b.png", "--output", tmp_path / name) == 0
    one, two = ((tmp_path / name / "b.png").read_bytes() for name in ("one", "two"))
    assert one == two
    picture = np.asarray(Image.open(tmp_path / "one" / "b.png")).astype(int)
    assert picture.shape[1] >= 640
    changed = np.abs(picture - [10, 20, 200]).sum(axis=2) > 30
    half = picture.shape[1] // 2
    assert changed[:, : half - 20].mean() > 0.95
    assert changed[:, half + 20 :].mean() < 0.05


def test_segmentations_are_drawn_in_the_palette_of_the_data(
    demo, demo_module, monkeypatch, images, tmp_path, caplog
):
    monkeypatch.setattr(demo_module, "LazyPredictor", FakeSegmenter)
    assert demo("--input", images / "b.png", "--output", tmp_path / "out") == 0
    assert "2 segments on 1 pictures" in caplog.text
    picture = np.asarray(Image.open(tmp_path / "out" / "b.png")).astype(int)
    left, right = np.median(picture[:, 20:200], (0, 1)), np.median(picture[:, -200:-20], (0, 1))
    background = (1 - SEGMENT_OPACITY) * np.array([10, 20, 200])
    assert np.abs(left - background - SEGMENT_OPACITY * np.array([250, 0, 0])).max() < 8
    assert np.abs(right - background - SEGMENT_OPACITY * np.array([0, 250, 0])).max() < 8


def test_panoptic_segments_are_drawn(demo, demo_module, monkeypatch, images, tmp_path, caplog):
    monkeypatch.setattr(demo_module, "LazyPredictor", FakePanopticPredictor)
    assert demo("--input", images / "b.png", "--output", tmp_path / "out") == 0
    assert "2 segments on 1 pictures" in caplog.text
    picture = np.asarray(Image.open(tmp_path / "out" / "b.png")).astype(int)
    height = picture.shape[0]
    left = np.median(picture[height // 2 : height * 2 // 3, 20:200], (0, 1))
    right = np.median(picture[: height // 2, -200:-20], (0, 1))
    bottom = np.median(picture[-40:], (0, 1))
    assert left[0] > left[1] + 40 and right[1] > right[0] + 40
    assert np.abs(bottom - [10, 20, 200]).max() < 8


def test_threshold(demo, images, tmp_path, caplog):
    out = ["--input", images / "b.png", "--output", tmp_path / "out"]
    assert demo(*out, "--confidence-threshold", 0.7) == 0
    assert "1 instances on 1 pictures" in caplog.text
    assert demo(*out, "--confidence-threshold", 0.71) == 0
    assert "0 instances on 1 pictures" in caplog.text


def test_unreadable_files_are_named_and_skipped(demo, images, tmp_path, caplog):
    whole = (images / "b.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "text.jpg").write_text("no image")
    Image.new("RGB", (1, 1)).save(images / "pixel.png")
    (images / "empty.png").touch()
    assert demo("--input", images, "--output", tmp_path / "out") == 1
    assert files(tmp_path / "out") == ["a.jpg", "alpha.png", "b.png", "c.tif.png", "grey.png"]
    for name in ("cut.png", "text.jpg", "pixel.png", "empty.png"):
        assert f"{images / name} is skipped" in caplog.text
    assert "4 images could not be drawn" in caplog.text


@pytest.mark.parametrize("pattern", ["none.png", "nowhere/*.png", "texts"])
def test_nothing_found_is_an_error(demo, tmp_path, caplog, pattern):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    assert demo("--input", tmp_path / pattern, "--output", tmp_path / "out") == 2
    assert f"no image found at '{tmp_path / pattern}'" in caplog.text
    assert not (tmp_path / "out").exists()


def test_images_are_never_overwritten(demo, images, caplog):
    before = (images / "b.png").read_bytes()
    assert demo("--input", images / "b.png", "--output", images) == 2
    assert "choose another --output" in caplog.text
    assert (images / "b.png").read_bytes() == before


def test_a_picture_is_complete_or_absent(demo, images, tmp_path, monkeypatch, caplog):
    def save_half(picture, stream, format):
        stream.write(b"half a picture")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", save_half)
    assert demo("--input", images / "b.png", "--output", tmp_path / "out") == 2
    assert "No space left on device" in caplog.text
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("option", ["--json", "--montage"])
def test_files_that_cannot_be_written_are_refused_at_once(demo, images, tmp_path, caplog, option):
    file = images / "b.png" / "file.png"
    assert demo("--input", images, "--output", tmp_path / "out", option, file) == 2
    assert f"{file} cannot be written" in caplog.text
    assert files(tmp_path / "out") == []


def test_a_montage_that_is_too_large_costs_nothing_else(
    demo, images, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(drawing, "_MAX_JPEG_SIDE", 1000)
    sheet, results = tmp_path / "sheet.jpg", tmp_path / "found.json"
    out = tmp_path / "out"
    assert demo("--input", images, "--output", out, "--montage", sheet, "--json", results) == 2
    assert "sheet.jpg cannot be written" in caplog.text
    assert not sheet.exists()
    assert len(files(out)) == len(json.loads(results.read_text())) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--confidence-threshold", "1.5"],
        ["--confidence-threshold", "high"],
        ["--limit", "0"],
        ["--montage", "sheet.gif"],
        ["--webcam"],
    ],
)
def test_impossible_arguments_are_refused(demo, tmp_path, capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        demo("--output", tmp_path, *arguments)
    assert arguments[0] in capsys.readouterr().err


@pytest.fixture
def real_demo(demo, demo_module, monkeypatch):
    """The tool's main function with the real predictor."""
    monkeypatch.setattr(demo_module, "LazyPredictor", vit_adapter.LazyPredictor)
    return demo


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "quick_start/shapes"], "No config is named 'quick_start/shapes'"),
        (["--weights", "none.pth"], "'none.pth' does not exist"),
        (["train.devise=cpu"], "train.devise"),
        (["--opts", "train.devise=cpu"], "train.devise"),
    ],
)
def test_unusable_config_and_weights_are_named(
    real_demo, images, tmp_path, caplog, arguments, message
):
    assert real_demo("--input", images, "--output", tmp_path / "out", *arguments) == 2
    assert message in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_shapes(tmp_path):
    register_shapes(tmp_path / "shapes", num_train=1, num_val=3, image_size=64)
    yield
    register_shapes()


def test_without_input_the_test_data_are_drawn(real_demo, small_shapes, tmp_path):
    few = "model.roi_heads.box_predictor.test_topk_per_image=2"
    out = tmp_path / "out"
    assert real_demo("--output", out, "--limit", 2, few, "train.device=cpu") == 0
    assert files(out) == ["000001.png", "000002.png"]


def write_own_data(folder, kind):
    """Write an image with its label and return overrides that use them as validation data."""
    images, labels = folder / "images", folder / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    Image.new("RGB", (32, 32)).save(images / "a.png")
    if kind == "semantic":
        Image.new("L", (32, 32), 1).save(labels / "a.png")
        return [f"data.val_images={images}", f"data.val_labels={labels}", "data.classes=[a,b]"]
    box = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [4, 4, 9, 9],
        "area": 81,
        "iscrowd": 0,
        "segmentation": [[4, 4, 13, 4, 13, 13]],
    }
    image = {"id": 1, "file_name": "a.png", "width": 32, "height": 32}
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": [image], "annotations": [box], "categories": categories}
    (labels / "a.json").write_text(json.dumps(content))
    return [f"data.val_images={images}", f"data.val_json={labels / 'a.json'}"]


@pytest.mark.parametrize(
    ("kind", "config"),
    [("instances", CONFIG), ("semantic", "quick_start/upernet_vit_adapter_tiny_scratch")],
)
def test_without_input_after_a_run_on_custom_data(demo_module, tmp_path, kind, config):
    overrides = write_own_data(tmp_path / "val", kind)
    cfg = apply_overrides(vit_adapter.model_zoo.get_config(config), overrides)
    save_config(apply_custom_data(cfg), str(tmp_path))
    DatasetCatalog.remove("custom_val")  # in practice the demo is another process
    MetadataCatalog.remove("custom_val")
    predictor = SimpleNamespace(cfg=LazyConfig.load(str(tmp_path / "config.yaml")))
    found, metadata = demo_module.dataset_images(predictor)
    assert list(found) == [tmp_path / "val/images/a.png"]
    assert metadata is MetadataCatalog.get("custom_val")
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"test data cannot be read, give --input: .*/val/"):
        demo_module.dataset_images(predictor)


def test_without_input_and_test_data(demo_module):
    with pytest.raises(ValueError, match="names no test data, .* give --input"):
        demo_module.dataset_images(SimpleNamespace(cfg=OmegaConf.create({"dataloader": {}})))


def test_without_input_and_the_files_of_the_test_data(demo_module, monkeypatch):
    def images(name):
        cfg = OmegaConf.create({"dataloader": {"test": {"dataset": {"names": name}}}})
        return demo_module.dataset_images(SimpleNamespace(cfg=cfg))

    expected = "give --input: no data set is registered as 'own_val' .a portable folder holds no"
    with pytest.raises(ValueError, match=expected):
        images("own_val")
    monkeypatch.setattr(demo_module, "check_downloaded", Mock(side_effect=OSError("no COCO here")))
    with pytest.raises(ValueError, match="give --input: no COCO here"):
        images("coco_2017_val")
    demo_module.check_downloaded.assert_called_once_with("coco_2017_val")


@pytest.mark.parametrize("predictor", [FakePredictor, FakeSegmenter])
def test_class_names_are_not_formulas(demo, demo_module, monkeypatch, images, tmp_path, predictor):
    names = ["cash$$", "$5", "$_$"]

    class Predictor(predictor):
        metadata = Metadata(thing_classes=names, stuff_classes=names)

    monkeypatch.setattr(demo_module, "LazyPredictor", Predictor)
    assert demo("--input", images / "b.png", "--output", tmp_path / "out") == 0
    assert files(tmp_path / "out") == ["b.png"]


@pytest.mark.slow
def test_as_a_program(images, tmp_path):
    command = [
        sys.executable,
        str(TOOL),
        "--config-file",
        CONFIG,
        "--output",
        str(tmp_path / "out"),
    ]
    images = [str(images / "b.png"), str(images / "notes.txt")]
    done = subprocess.run([*command, "--input", *images], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "2/2" in done.stderr  # the progress bar
    assert "notes.txt is skipped" in done.stdout
    assert files(tmp_path / "out") == ["b.png"]


def test_json_holds_what_is_drawn(demo, images, tmp_path, caplog):
    results = tmp_path / "new" / "found.json"
    assert demo("--input", images, "--output", tmp_path / "out", "--json", results) == 0
    entries = json.loads(results.read_text())
    assert [entry["image_id"] for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[0]["file_name"] == str(images / "a.jpg")
    assert entries[0]["bbox"] == [0, 0, 30, 40] and entries[0]["segmentation"]["size"] == [40, 60]
    assert entries[0]["category_id"] == 0
    assert "category_id is the index of the class, from 0, as no ids" in caplog.text
    threshold = ["--confidence-threshold", 0.8]
    demo("--input", images, "--output", tmp_path / "out", "--json", results, *threshold)
    assert json.loads(results.read_text()) == []


def test_json_has_the_ids_of_the_test_data(
    demo, demo_module, monkeypatch, images, tmp_path, caplog
):
    metadata = Metadata(thing_classes=["half"], thing_dataset_id_to_contiguous_id={5: 0})
    found = {images / "b.png": 7}
    monkeypatch.setattr(demo_module, "dataset_images", lambda predictor: (found, metadata))
    assert demo("--output", tmp_path / "out", "--json", tmp_path / "found.json") == 0
    (entry,) = json.loads((tmp_path / "found.json").read_text())
    assert (entry["image_id"], entry["category_id"]) == (7, 5)
    assert "category_id" not in caplog.text
