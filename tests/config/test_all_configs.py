"""Properties of every config, whatever it trains."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.solver import LRMultiplier
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter import ViTAdapter, ViTBaseline, model_zoo
from vit_adapter.backbone import BEiTBaseline, SingleScaleViT
from vit_adapter.config.portable import describe_model
from vit_adapter.config.tasks import set_num_classes, stated_task
from vit_adapter.hub.targets import with_targets
from vit_adapter.layers.converted import Float32Statistics

ALL = model_zoo.list_configs()
ROOT = model_zoo.config_root()
MAX_LEAF_LINES = 20


def bottom_up(backbone: nn.Module | DictConfig) -> nn.Module | DictConfig:
    """The backbone inside a pyramid and, in some models, an attention; not every model has them."""
    while (inner := getattr(backbone, "bottom_up", None)) is not None:
        backbone = inner
    return backbone


@pytest.fixture(params=ALL, scope="module")  # all tests of a config one after the other
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def cfg(name: str, load_config: Callable[[str], DictConfig]) -> DictConfig:
    return load_config(name)


def test_the_mask_rcnn_matrix_is_complete() -> None:
    weights = {"tiny": "deit", "small": "deit", "base": "deit", "large": "augreg"}
    expected = {
        f"coco/mask_rcnn_{backbone}_{size}_{pretraining}_{schedule}"
        for backbone in ("vit_adapter", "vit", "vitdet")
        for size, pretraining in weights.items()
        for schedule in ("1x", "3x")
    }
    assert expected <= set(ALL)
    expected = {f"quick_start/mask_rcnn_{b}_tiny_scratch" for b in ("vit_adapter", "vit", "vitdet")}
    assert expected <= set(ALL)
    assert "quick_start/mask_rcnn_vit_adapter_shapes" in ALL


@pytest.mark.parametrize(
    "head",
    (
        *("mask_rcnn", "cascade_mask_rcnn", "htc", "atss", "gfl"),
        *("semantic_fpn", "upernet"),
        *("mask2former", "mask2former_instance", "mask2former_panoptic"),
    ),
)
def test_every_head_can_be_started_quickly(head: str) -> None:
    backbones = ("vit_adapter_tiny_scratch", "vit_adapter_small_dinov2", "vit_small_dinov2")
    assert {f"quick_start/{head}_{backbone}" for backbone in backbones} <= set(ALL)


def test_has_the_common_keys(cfg: DictConfig) -> None:
    keys = {"model", "dataloader", "data", "optimizer", "lr_multiplier", "task", "test", "train"}
    assert set(cfg) == keys
    assert set(cfg.dataloader) == {"train", "test", "evaluator"}
    if "train_labels" in cfg.data:
        paths = ["train_images", "train_labels", "val_images", "val_labels", "classes"]
        sizes = ["crop_size", "scale", "test_scale"]
        assert set(cfg.data) == {*paths, *sizes, "check_all"}
    elif "train_panoptic_json" in cfg.data:
        kinds = ("panoptic_json", "panoptic_pngs", "images")
        paths = [*(f"{split}_{kind}" for split in ("train", "val") for kind in kinds), "classes"]
        assert set(cfg.data) == {*paths, "check_all"}
    else:
        paths = ["train_json", "train_images", "val_json", "val_images"]
        assert set(cfg.data) == {*paths, "check_all"}
    assert not any(cfg.data[path] for path in paths)
    assert set(cfg.train) == {
        "output_dir",
        "init_checkpoint",
        "vit_checkpoint",
        "vit_patch_resize",
        "allow_mismatch",
        "freeze",
        "feature_cache",
        "clip_grad",
        "max_iter",
        "epochs",
        "auto_scale_lr",
        "base_batch_size",
        "accumulate",
        "loss_normalization",
        "model_ema",
        "amp",
        "compile",
        "ddp",
        "parallel",
        "checkpointer",
        "eval_period",
        "best",
        "eval_pictures",
        "log_period",
        "wandb",
        "mlflow",
        "device",
        "seed",
    }


def test_the_task_is_stated(cfg: DictConfig) -> None:
    keys = {"crop_size": "semantic", "train_panoptic_json": "panoptic", "train_json": "instances"}
    (expected,) = (task for key, task in keys.items() if key in cfg.data)
    assert cfg.task.name == stated_task(cfg).name == expected
    set_num_classes(cfg, 7)
    if "semantic_head" in cfg.model.get("roi_heads", {}):  # has classes of its own
        del cfg.model.roi_heads.semantic_head, cfg.dataloader.train.mapper
    text = OmegaConf.to_yaml(cfg, resolve=True)
    counts = re.findall(r"^ .*\bnum_classes: (\S+)$", text, re.MULTILINE)
    assert set(counts) == {"7", cfg.task.num_classes}  # every head refers to that number


def test_a_converted_model_keeps_its_statistics(cfg: DictConfig) -> None:
    assert issubclass(cfg.model._target_, Float32Statistics)


def test_leaf_is_short_and_describes_itself(name: str) -> None:
    lines = Path(model_zoo.get_config_file(name)).read_text().splitlines()
    assert len(lines) <= MAX_LEAF_LINES
    assert re.match('"""[A-Z].*', lines[0])


def test_every_config_can_be_stored_as_yaml(cfg: DictConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    LazyConfig.save(cfg, str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]  # no pickle next to it
    text = path.read_text()
    assert "!!python" not in text
    again = LazyConfig.load(str(path))
    # Classes are stored by name; a second round shows that nothing else has changed.
    LazyConfig.save(again, str(path))
    assert path.read_text() == text
    assert instantiate(again.lr_multiplier)(1.0) == instantiate(cfg.lr_multiplier)(1.0)


def test_can_be_carried_in_a_portable_folder(cfg: DictConfig) -> None:
    contents = describe_model(cfg, {}, {})
    assert json.loads(json.dumps(contents.config)) == contents.config
    found = with_targets(contents.config)  # refuses what may not be called
    found["model"] |= contents.preprocessing
    expected = OmegaConf.to_container(cfg, resolve=True)
    assert found["model"] == expected["model"]
    assert found["dataloader"]["test"] == expected["dataloader"]["test"]


def test_interpolations_can_be_resolved(cfg: DictConfig) -> None:
    OmegaConf.resolve(cfg)
    assert not OmegaConf.missing_keys(cfg)


def test_model_and_optimizer_can_be_built(cfg: DictConfig) -> None:
    with torch.device("meta"):
        model = instantiate(cfg.model)
    shapes = bottom_up(model.backbone).output_shape()
    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    used = bottom_up(cfg.model.backbone).get("out_features", strides)
    if isinstance(bottom_up(model.backbone), SingleScaleViT):
        used = ["res4"]
    assert {key: shape.stride for key, shape in shapes.items()} == {k: strides[k] for k in used}
    width = bottom_up(model.backbone).vit.embed_dim
    assert {shape.channels for shape in shapes.values()} == {width}
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    in_groups = [param for group in optimizer.param_groups for param in group["params"]]
    assert {id(p) for p in in_groups} == {id(p) for p in model.parameters() if p.requires_grad}
    # Only plain numbers, because checkpoints store them and are read without unpickling objects.
    for group in optimizer.state_dict()["param_groups"]:
        values = [group["lr"], group["weight_decay"], group["eps"], *group["betas"]]
        assert {type(value) for value in values} == {float} and type(group["betas"]) is tuple
    LRMultiplier(optimizer, instantiate(cfg.lr_multiplier), max_iter=cfg.train.max_iter)


def test_backbone_follows_the_name(name: str, cfg: DictConfig) -> None:
    backbone = bottom_up(cfg.model.backbone)
    kind = re.search(r"_(vit_adapter|vitdet|vit)_", name)[1]
    target = backbone._target_
    target = locate(target) if isinstance(target, str) else target
    if kind == "vitdet" and target is SingleScaleViT:
        return  # with ViTDet's own pyramid
    expected = (ViTAdapter,) if kind == "vit_adapter" else (ViTBaseline, BEiTBaseline)
    assert target in expected
    assert list(backbone.vit.get("residual_indexes", [])) == (
        list(backbone.out_indexes) if kind == "vitdet" else []
    )


def test_schedule_follows_max_iter(cfg: DictConfig) -> None:
    before = instantiate(cfg.lr_multiplier)
    cfg.train.max_iter *= 2
    after = instantiate(cfg.lr_multiplier)
    assert after.max_iter == cfg.train.max_iter == 2 * before.max_iter
    if hasattr(before, "milestones"):
        doubled = [2 * milestone for milestone in before.milestones]
        assert after.milestones == pytest.approx(doubled, abs=1)  # rounded to iterations


def test_learning_rate_is_for_the_total_batch_and_all_groups_follow_it(cfg: DictConfig) -> None:
    assert cfg.train.base_batch_size == cfg.dataloader.train.total_batch_size
    assert (cfg.train.epochs, cfg.train.auto_scale_lr) == (None, False)
    cfg.optimizer.lr *= 3
    assert cfg.optimizer.params.base_lr == cfg.optimizer.lr


def test_common_parts_define_no_classes_and_no_lambdas() -> None:
    code = re.compile(r"^\s*class |\blambda\b|\bpartial\(", re.MULTILINE)
    assert [path.name for path in ROOT.rglob("*.py") if code.search(path.read_text())] == []
