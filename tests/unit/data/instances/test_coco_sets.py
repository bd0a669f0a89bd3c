"""Missing files of the COCO data sets that Detectron2 registers."""

from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from vit_adapter.config.data_checks import check_classes
from vit_adapter.config.loading import load_config
from vit_adapter.data.catalog import data_root
from vit_adapter.data.instances.coco_sets import check_downloaded

NAME = "coco_2017_val"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The annotation file and the image folder of a data set, which do not exist yet."""
    annotations, images = tmp_path / "a.json", tmp_path / "images"
    metadata = Metadata(**{**MetadataCatalog.get(NAME).as_dict(), "name": NAME})
    metadata.__dict__.update(json_file=str(annotations), image_root=str(images))
    monkeypatch.setitem(MetadataCatalog.data, NAME, metadata)
    return annotations, images


def test_missing_file_and_folder_are_named(files: tuple[Path, Path]) -> None:
    annotations, images = files
    with pytest.raises(FileNotFoundError, match=f"{NAME}' needs {annotations}") as error:
        check_downloaded(NAME)
    for text in ("DETECTRON2_DATASETS", str(data_root()), "data.train_json"):
        assert text in str(error.value)
    annotations.touch()
    with pytest.raises(FileNotFoundError, match=f"{NAME}' needs {images}"):
        check_downloaded(NAME)
    images.mkdir()
    check_downloaded(NAME)


def test_other_data_sets_are_not_concerned(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = Metadata(name="shapes_val", json_file="missing.json", image_root="missing")
    monkeypatch.setitem(MetadataCatalog.data, "shapes_val", metadata)
    check_downloaded("shapes_val")  # it is written when it is used


def test_a_run_checks_it_first(files: tuple[Path, Path]) -> None:
    cfg = load_config("coco/mask_rcnn_vit_adapter_tiny_deit_3x")
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS"):
        check_classes(cfg, training=False)
