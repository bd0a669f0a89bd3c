"""Predictors written to portable folders and to the Hub, and read again."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vit_adapter import LazyPredictor
from vit_adapter.hub import FolderError

DETECTOR = "quick_start/mask_rcnn_vit_adapter_shapes"
SEGMENTOR = "quick_start/semantic_fpn_vit_adapter_tiny_scratch"
PANOPTIC = "quick_start/mask2former_panoptic_vit_adapter_shapes"
CPU = "train.device=cpu"
TINY = [
    *(CPU, "model.backbone.out_channels=32", "model.backbone.bottom_up.vit.embed_dim=48"),
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
]
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor() -> LazyPredictor:
    torch.manual_seed(0)
    return LazyPredictor(DETECTOR, overrides=TINY)


@pytest.fixture(scope="module")
def folder(predictor: LazyPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predictor.save_pretrained(tmp_path_factory.mktemp("shared") / "model", title="Shapes")


def test_predicts_the_same(predictor: LazyPredictor, folder: Path) -> None:
    expected, found = predictor(IMAGE)["instances"], None
    for read in (LazyPredictor.from_pretrained(folder, overrides=[CPU]), LazyPredictor(folder)):
        found = read(IMAGE)["instances"]
        assert len(found) == len(expected) > 0
        assert torch.equal(found.pred_boxes.tensor.cpu(), expected.pred_boxes.tensor)
        assert torch.equal(found.pred_masks.cpu(), expected.pred_masks)
        assert read.metadata.thing_classes == predictor.metadata.thing_classes
        assert read.metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2}
    assert "# Shapes" in (folder / "README.md").read_text()


def test_statistics_altered_by_hand_are_refused(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    LazyPredictor.from_pretrained(copied, overrides=[CPU])
    file = copied / "preprocessing.json"
    file.write_text(file.read_text().replace("123.675", "123.0"))
    with pytest.raises(ValueError, match="preprocessing.json was altered or damaged"):
        LazyPredictor.from_pretrained(copied)


def test_wrappers_for_testing_are_not_part_of_the_weights(
    predictor: LazyPredictor, folder: Path, tmp_path: Path
) -> None:
    nms = [CPU, "test.nms.method=linear"]
    wrapped = LazyPredictor.from_pretrained(folder, overrides=nms)
    assert wrapped.model is not wrapped.unwrapped_model
    again = LazyPredictor.from_pretrained(wrapped.save_pretrained(tmp_path / "again"))
    assert set(again.unwrapped_model.state_dict()) == set(predictor.model.state_dict())
    assert again.cfg.test.nms.method == "linear"


@pytest.mark.parametrize("config", [SEGMENTOR, PANOPTIC])
def test_classes_and_colours_are_carried(config: str, tmp_path: Path) -> None:
    classes = ["data.classes=[sky,road]", "model.sem_seg_head.num_classes=2"]
    predictor = LazyPredictor(config, overrides=[CPU, *(classes if config == SEGMENTOR else [])])
    read = LazyPredictor.from_pretrained(predictor.save_pretrained(tmp_path / "model"))
    for key in ("thing_classes", "thing_colors", "stuff_classes", "stuff_colors"):
        expected = predictor.metadata.get(key)
        assert read.metadata.get(key) == (expected and [*map(_hashable, expected)])
    assert read.metadata.stuff_colors
    (key,) = set(predictor(IMAGE)) - {"instances"}
    found, expected = (p(IMAGE)[key] for p in (read, predictor))
    if key == "panoptic_seg":
        found, expected = found[0], expected[0]
    assert torch.equal(found.cpu(), expected)


def _hashable(value: object) -> object:
    return value if isinstance(value, str) else tuple(value)


def test_a_folder_that_is_not_portable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no manifest.json.*package_model.py"):
        LazyPredictor.from_pretrained(tmp_path)


def test_a_model_is_pushed_as_a_folder(
    predictor: LazyPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = {}

    def push(folder: Path, repository: str, **options: object) -> str:
        pushed.update(options, repository=repository, files={f.name for f in folder.iterdir()})
        return "address"

    monkeypatch.setattr("vit_adapter.sharing.push_folder", push)
    assert predictor.push_to_hub("owner/shapes", private=True, licence="mit") == "address"
    assert pushed["repository"] == "owner/shapes" and pushed["private"] is True
    assert {"manifest.json", "model.safetensors", "README.md"} <= pushed["files"]
