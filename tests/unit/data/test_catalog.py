"""The folder of all data sets, and repeatable registration."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from vit_adapter.data.catalog import data_root, register, unregister


def test_data_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert data_root() == Path.home() / "data"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    assert data_root() == tmp_path / "datasets"


def test_a_name_is_registered_again() -> None:
    register("pebbles_train", list, thing_classes=["pebble"], num_objects=3)
    try:
        records = [{"file_name": "a.png"}]
        metadata = register("pebbles_train", lambda: records, thing_classes=["stone", "sand"])
        assert DatasetCatalog.get("pebbles_train") == records
        assert metadata is MetadataCatalog.get("pebbles_train")
        assert metadata.as_dict() == {"name": "pebbles_train", "thing_classes": ["stone", "sand"]}
    finally:
        unregister("pebbles_train")
    assert "pebbles_train" not in DatasetCatalog.list()
    assert "pebbles_train" not in MetadataCatalog.list()
    unregister("pebbles_train")  # not an error
