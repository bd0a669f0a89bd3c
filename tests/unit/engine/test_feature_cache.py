"""Training with fixed views, and with the output of the frozen ViT for them on disk."""

from __future__ import annotations

import json
import logging
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_train_loader
from detectron2.structures import ImageList
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from vit_adapter import PlainViT, ViTAdapter
from vit_adapter.config.errors import UsageError
from vit_adapter.data import CheckedDatasetMapper, flip_and_resize
from vit_adapter.engine import feature_cache
from vit_adapter.engine.run import train
from vit_adapter.model_zoo import get_config

pytestmark = pytest.mark.usefixtures("one_thread")


class TinyModel(nn.Module):
    """A backbone with a loss on its features."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 120.0), False)
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 60.0), False)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [(inputs["image"] - self.pixel_mean) / self.pixel_std for inputs in batch]
        features = self.backbone(ImageList.from_tensors(images, 32).tensor)
        return {"loss": sum((maps - 1).square().mean() for maps in features.values())}


class NoAdapter(TinyModel):
    """The same without an adapter."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(nn.Identity())


def list_images(folder: str) -> list[dict[str, Any]]:
    return [{"file_name": str(path)} for path in sorted(Path(folder).glob("*.png"))]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three images of different sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for n, size in enumerate([(40, 60), (64, 50), (33, 33)]):
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def cfg(tmp_path: Path, images: Path) -> DictConfig:
    """Nine iterations of two images: three passes over two views of three images."""
    cfg = get_config("quick_start/semantic_fpn_vit_adapter_tiny_scratch")
    backbone = L(ViTAdapter)(
        vit=L(PlainViT)(img_size=64, embed_dim=12, depth=4, num_heads=2),
        mode="frozen",
        interaction_indexes=[[0, 0], [1, 1], [2, 2], [3, 3]],
        conv_inplane=4,
        deform_num_heads=2,
        norm="BN",
    )
    cfg.model = L(TinyModel)(backbone=backbone)
    cfg.dataloader.train = L(build_detection_train_loader)(
        dataset=L(list_images)(folder=str(images)),
        mapper=L(CheckedDatasetMapper)(
            is_train=True,
            augmentations=L(flip_and_resize)(short_edges=[32, 64], max_size=96),
            image_format="RGB",
        ),
        total_batch_size=2,
        num_workers=0,
        aspect_ratio_grouping=False,
    )
    cfg.dataloader.evaluator = None
    changes = {"max_iter": 9, "log_period": 1, "device": "cpu", "seed": 0}
    cfg.train.update({**changes, "feature_cache": {"dir": str(tmp_path / "cache"), "views": 2}})
    return cfg


def losses(cfg: DictConfig, output_dir: Path, **options: Any) -> list[float]:
    """Train; return the loss of each iteration."""
    cfg = OmegaConf.merge(cfg, {"train": {"output_dir": str(output_dir), **options}})
    output_dir.mkdir()
    train(cfg)
    lines = (output_dir / "metrics.json").read_text().splitlines()
    return [entry["total_loss"] for entry in map(json.loads, lines)]


def without_files(cfg: DictConfig) -> DictConfig:
    return OmegaConf.merge(cfg, {"train": {"feature_cache": {"dir": ""}}})


def counts(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int, int]]:
    """Views that were read, computed and damaged in each run so far."""
    texts = [record for record in caplog.records if "views were read" in record.msg]
    return [record.args for record in texts]


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vit_adapter")


def test_losses_are_the_same_with_and_without_files(
    cfg: DictConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = losses(without_files(cfg), tmp_path / "run0")
    assert losses(cfg, tmp_path / "run1") == expected
    assert losses(cfg, tmp_path / "run2") == expected
    assert counts(caplog) == [(12, 6, 0), (18, 0, 0)]  # the ViT runs once for each view
    assert len(set(expected)) == len(expected) == 9


def test_other_data_workers_see_the_same_views(
    cfg: DictConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    losses(cfg, tmp_path / "run1")
    cfg.dataloader.train.num_workers = 2
    losses(cfg, tmp_path / "run2")
    assert counts(caplog)[1] == (18, 0, 0)


def test_views_are_drawn_anew_without_the_option(cfg: DictConfig, tmp_path: Path) -> None:
    fixed = losses(without_files(cfg), tmp_path / "run0")
    cfg.train.feature_cache = {"dir": "", "views": 0}
    assert losses(cfg, tmp_path / "run1") != fixed
    del cfg.train.feature_cache  # as in configs that were saved by earlier versions
    losses(cfg, tmp_path / "run2")


def test_an_interrupted_cache_is_continued(
    cfg: DictConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = losses(without_files(cfg), tmp_path / "run0")
    losses(cfg, tmp_path / "run1", max_iter=1)
    assert losses(cfg, tmp_path / "run2") == expected
    assert counts(caplog) == [(0, 2, 0), (14, 4, 0)]


def test_a_damaged_file_is_computed_again(
    cfg: DictConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = losses(cfg, tmp_path / "run1")
    file = next((tmp_path / "cache").rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    assert losses(cfg, tmp_path / "run2") == expected
    assert counts(caplog)[1] == (17, 1, 1)
    assert sum(str(file) in message for message in caplog.messages) == 1


def test_a_changed_image_is_noticed(
    cfg: DictConfig, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    losses(cfg, tmp_path / "run1")
    Image.new("RGB", (50, 50), "red").save(images / "0.png")
    expected = losses(without_files(cfg), tmp_path / "run0")
    assert losses(cfg, tmp_path / "run2") == expected
    assert counts(caplog)[1] == (16, 2, 0)


def test_changed_augmentations_are_noticed(
    cfg: DictConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    losses(cfg, tmp_path / "run1")
    assert not any("other training data" in message for message in caplog.messages)
    cfg.dataloader.train.mapper.augmentations.short_edges = [48]
    expected = losses(without_files(cfg), tmp_path / "run0")
    assert losses(cfg, tmp_path / "run2") == expected
    assert counts(caplog)[1] == (12, 6, 0)
    assert sum("other training data or augmentations" in text for text in caplog.messages) == 1


def test_a_cache_of_other_weights_is_refused(cfg: DictConfig, tmp_path: Path) -> None:
    losses(cfg, tmp_path / "run1")
    with pytest.raises(UsageError, match=r"belongs to another ViT .weights: \w{12} in the cache"):
        losses(cfg, tmp_path / "run2", seed=1)
    cfg.model.backbone.interaction_indexes = [[0, 1], [2, 2], [3, 3]]
    with pytest.raises(UsageError, match=r"blocks: .0, 1, 2, 3. in the cache, .1, 2, 3. in"):
        losses(cfg, tmp_path / "run4")
    cfg.model.backbone.interaction_indexes = [[0, 0], [1, 1], [2, 2], [3, 3]]
    cfg.model.backbone.vit.window_sizes = [2, 0, 0, 0]
    with pytest.raises(UsageError, match="window_sizes: null in the cache, .2, 0, 0, 0."):
        losses(cfg, tmp_path / "run3")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    cfg: DictConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5 * 2**20))
    monkeypatch.setattr(feature_cache.TapStore, "file_bytes", lambda shape: 2**20)
    with pytest.raises(UsageError, match=r"3 images x 2 views need about 6.0 MiB .* only 5.0 MiB"):
        losses(cfg, tmp_path / "run1")
    assert not (tmp_path / "cache").exists()
    losses(cfg, tmp_path / "run2", feature_cache={"views": 1})
    assert any("3 images x 1 views take about 3.0 MiB" in text for text in caplog.messages)


def test_what_is_stored_needs_no_more_space(
    cfg: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses(cfg, tmp_path / "run1")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000))
    losses(cfg, tmp_path / "run2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"backbone": {"mode": "full"}}}, "model.backbone.mode is 'full'"),
        ({"model": {"backbone": {"mode": "light"}}}, "Use model.backbone.mode=frozen"),
        ({"model": {"_target_": NoAdapter}}, "this model has no ViTAdapter"),
        ({"train": {"feature_cache": {"views": 0}}}, "needs train.feature_cache.views"),
        ({"train": {"feature_cache": {"views": 1.5}}}, "views=1.5, expected the number"),
        ({"train": {"feature_cache": {"views": -1}}}, "views=-1, expected the number"),
        ({"train": {"feature_cache": {"dir": None}}}, "dir=None, expected a folder"),
        ({"dataloader": {"train": {"sampler": "some"}}}, "no sampler of its own"),
    ],
)
def test_what_does_not_fit_is_refused(
    cfg: DictConfig, tmp_path: Path, change: dict, message: str
) -> None:
    changed = OmegaConf.merge(cfg, OmegaConf.create(change, flags={"allow_objects": True}))
    with pytest.raises(UsageError, match=message):
        losses(changed, tmp_path / "run")
    assert not (tmp_path / "cache").exists()


def test_a_vit_that_is_trained_in_part_is_refused(cfg: DictConfig) -> None:
    model = TinyModel(
        ViTAdapter(
            PlainViT(img_size=64, embed_dim=12, depth=1, num_heads=2),
            mode="frozen",
            interaction_indexes=[[0, 0]],
            deform_num_heads=2,
            norm="BN",
        )
    )
    model.backbone.vit.pos_embed.requires_grad_()
    with pytest.raises(UsageError, match=r"1 tensors of model.backbone.vit are trained \(pos_emb"):
        feature_cache.attach_feature_cache(cfg, model, None, None)


def test_a_folder_that_cannot_be_made_is_refused(cfg: DictConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: .*Give a folder that can"):
        losses(cfg, tmp_path / "run", feature_cache={"dir": str(tmp_path / "file" / "cache")})
