"""Configs by name, in a source checkout and in an installed package."""

import shutil
from pathlib import Path

import pytest

from vit_adapter import model_zoo

NAME = "coco/mask_rcnn_vit_adapter_tiny_deit_3x"


def test_lists_only_complete_configs():
    names = model_zoo.list_configs()
    assert NAME in names
    assert names == sorted(set(names))
    assert not [name for name in names if name.startswith("common/") or "__" in name]
    assert all(Path(model_zoo.get_config_file(name)).is_file() for name in names)


def test_loads_a_new_config_object_each_time():
    cfg = model_zoo.get_config(NAME)
    assert {"model", "dataloader", "data", "optimizer", "lr_multiplier", "train"} <= set(cfg)
    cfg.model.roi_heads.num_classes = 7
    assert model_zoo.get_config(NAME).model.roi_heads.num_classes == 80


def test_shared_parts_can_be_loaded_too():
    assert model_zoo.get_config("common/models/vit_adapter").small.vit.embed_dim == 384


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(
        ValueError, match=f"'coco/mask_rcnn_vit_adaptor_tiny_3x'.*Did you mean {NAME}"
    ):
        model_zoo.get_config_file("coco/mask_rcnn_vit_adaptor_tiny_3x")


@pytest.mark.parametrize("name", ["", "zzz", "../train_net", "/etc/passwd"])
def test_invalid_names_are_refused(name):
    with pytest.raises(ValueError, match="No config is named"):
        model_zoo.get_config(name)


def test_a_name_with_extension_suggests_the_right_one():
    with pytest.raises(ValueError, match=f"without .py.*Did you mean {NAME},"):
        model_zoo.get_config(NAME + ".py")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The folder of a package as installed from a wheel, with the configs inside."""
    package = tmp_path / "site-packages" / "vit_adapter"
    shutil.copytree(model_zoo.config_root(), package / "configs")
    monkeypatch.setattr(model_zoo, "_PACKAGE", package)
    return package


def test_an_installed_package_contains_its_configs(installed):
    assert model_zoo.get_config_file(NAME) == str(installed / "configs" / f"{NAME}.py")
    assert NAME in model_zoo.list_configs()
    assert model_zoo.get_config(NAME).model.backbone.bottom_up.vit.embed_dim == 192


def test_a_checkout_ignores_a_copy_inside_the_package(tmp_path, monkeypatch):
    package = tmp_path / "projects" / "ViTAdapter" / "vit_adapter"
    for root, name in ((package, "stale"), (tmp_path, "edited")):
        (root / "configs" / "coco").mkdir(parents=True)
        (root / "configs" / "coco" / f"{name}.py").touch()
    monkeypatch.setattr(model_zoo, "_PACKAGE", package)
    assert model_zoo.list_configs() == ["coco/edited"]


def test_an_installation_without_configs_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(model_zoo, "_PACKAGE", tmp_path / "vit_adapter")
    with pytest.raises(FileNotFoundError, match="reinstall"):
        model_zoo.get_config(NAME)
