"""The Python of the documentation runs, with tiny models in place of large ones."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import cv2
import detectron2.config
import numpy as np
import pytest
import timm
import torch
from detectron2.config import LazyCall as L, LazyConfig
from detectron2.layers.mask_ops import paste_masks_in_image
from omegaconf import DictConfig, OmegaConf
from pages import ROOT, Snippet, snippets

from vit_adapter import LazyPredictor, predictor
from vit_adapter.config.loading import load_config
from vit_adapter.data.instances.augmentation import resize
from vit_adapter.ops import extension_info

GENERAL = "quick_start/mask_rcnn_vit_adapter_shapes"
PANOPTIC = "quick_start/mask2former_panoptic_vit_adapter_shapes"
SMALL_DETECTOR = [
    "model.backbone.bottom_up.vit.embed_dim=48",
    "model.backbone.out_channels=32",
    "model.roi_heads.box_head.fc_dims=[32,32]",
    "model.roi_heads.mask_head.conv_dims=[32,32]",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
    "model.roi_heads.box_predictor.test_topk_per_image=5",
]
FIVE_CHANNELS = [
    "model.input_channels=5",
    f"model.pixel_mean={[900.0] * 5}",
    f"model.pixel_std={[100.0] * 5}",
]
EVERY_SEGMENT = ["model.object_mask_threshold=0.0", "model.overlap_threshold=0.0"]


def blocks(page: str, words: str) -> list[Snippet]:
    """The blocks of a page that contain some words, of which there is at least one."""
    found = [s for s in snippets("python") if s.page.name == page and words in s.text]
    assert found, f"{page} has no code with {words!r}; adapt this test to the new text"
    return found


def execute(snippet: Snippet, text: str = "", **names: object) -> dict[str, object]:
    """Run a block, or a changed text of it; return its names."""
    exec(compile(text or snippet.text, snippet.name, "exec"), names)
    return names


@pytest.fixture
def small_models(monkeypatch, tmp_path) -> Path:
    """The predictor makes its models tiny; a folder with weights and a photo as documented."""

    def load_small(name: str, overrides: list[str]) -> DictConfig:
        is_panoptic = name == PANOPTIC
        cfg = load_config(name, EVERY_SEGMENT if is_panoptic else SMALL_DETECTOR)
        cfg.dataloader.test.mapper.augmentations = L(resize)(short_edges=[64], max_size=96)
        cfg.train.device = "cpu"
        return cfg

    monkeypatch.setattr(predictor, "load_config", load_small)
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.jpg", np.full((60, 80, 3), 90, np.uint8))
    return tmp_path


def test_detectors(small_models):
    snippet, *others = blocks("README.md", "LazyPredictor(") + blocks("prediction.md", "street.jpg")
    name = re.search(r'LazyPredictor\("(.+?)"', snippet.text)[1]
    model = LazyPredictor(name).model
    torch.save({"model": model.state_dict()}, "model_final.pth")
    for block in (snippet, *others):
        names = execute(block)
        assert len(names["instances"]) == 5
    (trace,) = blocks("prediction.md", "torch.jit.trace")
    text = trace.text.replace("3, 800, 1216", "3, 64, 96")
    assert text != trace.text
    execute(trace, text, predictor=names["predictor"])
    assert Path("model.ts").is_file()


def test_images_of_other_channels(monkeypatch, tmp_path):
    (snippet,) = blocks("image_formats.md", "image_format")
    monkeypatch.setattr("vit_adapter.LazyPredictor", lambda folder: five)
    five = LazyPredictor(load_config(GENERAL, [*SMALL_DETECTOR, *FIVE_CHANNELS]))
    monkeypatch.chdir(tmp_path)
    file = "image.tif"
    np.save("image.npy", np.full((60, 80, 5), 900, np.uint16))
    assert file in snippet.text
    names = execute(snippet, snippet.text.replace(file, "image.npy"))
    assert len(names["instances"]) == 5


@pytest.fixture
def run_exported(monkeypatch, tmp_path) -> Callable[[dict[str, np.ndarray]], dict[str, object]]:
    """Run the example for ONNX Runtime with a stand-in that returns the given outputs."""
    (snippet,) = blocks("deployment.md", "onnxruntime")
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.jpg", np.full((60, 80, 3), 90, np.uint8))

    def run(outputs: dict[str, np.ndarray]) -> dict[str, object]:
        session = SimpleNamespace(run=lambda names, inputs: list(outputs.values()))
        runtime = SimpleNamespace(InferenceSession=lambda file: session)
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        meanings = dict.fromkeys(outputs, "")
        classes = ["a", "b", "c"]
        description = {"input": {"channels": "RGB"}, "outputs": meanings, "classes": classes}
        Path("model.onnx.json").write_text(json.dumps(description))
        return execute(snippet)

    return run


def test_exported_programs(run_exported):
    (pt2,) = blocks("deployment.md", "torch.export.load")
    names = run_exported({"logits": np.zeros((1, 3, 512, 512), np.float32)})
    program = torch.export.export(torch.nn.ReLU(), (torch.from_numpy(names["images"]),))
    torch.export.save(program, "model.pt2")
    portable = "\n".join(line for line in pt2.text.splitlines() if "aoti" not in line)
    assert execute(pt2, portable, **names)["outputs"].shape == (1, 3, 512, 512)


def test_results_of_semantic_models(run_exported):
    (snippet,) = blocks("deployment.md", "argmax")
    logits = np.zeros((1, 3, 512, 512), np.float32)
    logits[:, 2, :, 256:] = 1
    names = execute(snippet, **run_exported({"logits": logits}))
    assert (names["labels"] == np.repeat([[0, 2]], 40, axis=1)).all()
    assert names["labels"].shape == (60, 80) and names["names"] == ["a", "c"]


def test_results_of_detectors(run_exported):
    (snippet,) = blocks("deployment.md", "paste_mask")
    corners = np.random.default_rng(0).uniform(0, 400, (1, 5, 2))
    outputs = {
        "boxes": np.concatenate([corners, corners + [[[50, 100]]]], axis=2).astype(np.float32),
        "scores": np.array([[0.9, 0.8, 0.7, 0.4, 0.0]], np.float32),
        "classes": np.array([[2, 0, 1, 0, 0]]),
        "masks": np.random.default_rng(1).uniform(0, 1, (1, 5, 7, 7)).astype(np.float32),
        "count": np.array([4]),
    }
    objects = execute(snippet, **run_exported(outputs))["objects"]
    assert [found["class"] for found in objects] == ["c", "a", "b"]
    boxes = torch.from_numpy(np.stack([found["box"] for found in objects])).float()
    expected = outputs["boxes"][0, :3] * np.array([80, 60, 80, 60]) / 512
    torch.testing.assert_close(boxes.numpy(), expected.astype(np.float32))
    masks = paste_masks_in_image(torch.from_numpy(outputs["masks"][0, :3]), boxes, (60, 80))
    differ = np.stack([found["mask"] for found in objects]) != masks.numpy()
    assert masks.any() and differ.sum() <= 1  # rounding at 0.5
    without_masks = {name: values for name, values in outputs.items() if name != "masks"}
    objects = execute(snippet, **run_exported(without_masks))["objects"]
    assert [found.keys() for found in objects] == [{"class", "box"}] * 3


def test_panoptic_models(small_models):
    (snippet,) = blocks("prediction.md", "panoptic_seg")
    image = cv2.imread("street.jpg")
    names = execute(snippet, predictor=LazyPredictor(PANOPTIC), image=image)
    (documented,) = re.findall(r"segments\[0\]\s+# (\{.+\})", snippet.text)
    assert names["segments"][0].keys() == ast.literal_eval(documented).keys()
    assert names["ids"].shape == (60, 80)


@pytest.mark.parametrize(
    ("word", "config"),
    [
        ("sliding_window", "ade20k/upernet_vit_adapter_tiny_deit_512_160k"),
        ("nms=", "coco/mask_rcnn_vit_adapter_tiny_deit_3x"),
    ],
)
def test_shown_settings_are_those_of_the_configs(word, config):
    (snippet,) = blocks("prediction.md", word)
    shown = execute(snippet)["test"]
    actual = OmegaConf.to_container(load_config(config).test)
    for name, settings in shown.items():
        if not isinstance(settings, dict):
            assert actual[name] == settings, name
            continue
        for key, value in settings.items():
            if isinstance(value, list) and ... in value:  # the ends of a range
                value = list(range(value[0], value[-1] + 1, value[1] - value[0]))
            assert actual[name][key] == value, f"{name}.{key}"


def test_portable_folders(monkeypatch):
    """Their arguments; tests/unit/test_sharing.py reads real folders."""
    read = create_autospec(LazyPredictor.from_pretrained)
    monkeypatch.setattr(LazyPredictor, "from_pretrained", read)
    for block in blocks("sharing.md", "from_pretrained"):
        execute(block, LazyPredictor=LazyPredictor)
    assert read.call_count == 2


def test_yacs(monkeypatch, tmp_path):
    (snippet,) = blocks("prediction.md", "DefaultPredictor")
    (config,) = [s for s in snippets("yaml") if s.page == snippet.page]
    monkeypatch.chdir(tmp_path)
    (file,) = re.findall(r'merge_from_file\("(.+)"\)', snippet.text)
    Path(file).write_text(config.text)

    def get_cfg(original=detectron2.config.get_cfg):
        cfg = original()
        cfg.MODEL.DEVICE = "cpu"
        return cfg

    monkeypatch.setattr(detectron2.config, "get_cfg", get_cfg)
    assert execute(snippet)["predictor"].cfg.MODEL.VIT_ADAPTER.SIZE == "tiny"


def test_a_vit_of_timm():
    (snippet,) = blocks("backbones.md", "L(TimmViT)")
    cfg = load_config("coco/mask_rcnn_vit_adapter_base_deit_3x")
    execute(snippet, model=cfg.model, train=cfg.train)
    vit = cfg.model.backbone.bottom_up.vit
    assert cfg.train.vit_checkpoint == f"timm:{vit.name}"
    assert timm.is_model_pretrained(vit.name)


def test_a_leaf(tmp_path):
    """The complete config of foundation_models.md, in a folder with the configs that it imports."""
    (snippet,) = blocks("foundation_models.md", "from ..common")
    shutil.copytree(ROOT / "configs" / "common", tmp_path / "common")
    shutil.copytree(ROOT / "configs" / "coco", tmp_path / "coco")
    (tmp_path / "coco" / "documented.py").write_text(snippet.text)
    cfg = LazyConfig.load(str(tmp_path / "coco" / "documented.py"))
    assert timm.is_model(cfg.model.backbone.bottom_up.vit.name)


def test_imports():
    for snippet in blocks("checkpoints.md", "import"):
        execute(snippet)


def test_the_operator():
    call, info = blocks("ops.md", "extension_info")
    value, locations = torch.rand(1, 6, 2, 8), torch.rand(1, 5, 2, 1, 4, 2)
    weights = torch.rand(1, 5, 2, 1, 4)
    names = {"value": value, "sampling_locations": locations, "attention_weights": weights}
    assert execute(call, spatial_shapes=[(2, 3)], **names)["output"].shape == (1, 5, 16)
    shown = ast.literal_eval(info.text.partition("extension_info()\n")[2])
    actual = extension_info()
    assert shown.keys() == actual.keys()
    for name in ("backends", "cpu_fast_paths"):
        assert shown[name].keys() == actual[name].keys()


def test_no_block_is_forgotten():
    tested = {"README.md": 1, "backbones.md": 1, "checkpoints.md": 1, "foundation_models.md": 1}
    tested |= {
        "ops.md": 2,
        "prediction.md": 6,
        "sharing.md": 2,
        "image_formats.md": 1,
        "deployment.md": 4,
    }
    pages = [snippet.page.name for snippet in snippets("python")]
    assert {page: pages.count(page) for page in pages} == tested, "test the new code, too"
