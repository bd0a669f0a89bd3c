"""The generated shapes with other pixels than 8-bit RGB."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from vit_adapter.data import read_image
from vit_adapter.data.image_io import read_stored
from vit_adapter.data.shapes.catalog import register_shapes

SIZE = dict(num_train=6, num_val=4, image_size=96, seed=3)  # as in conftest


@pytest.fixture
def root(shapes_root: Path, tmp_path: Path) -> Iterator[Path]:
    register_shapes(shutil.copytree(shapes_root, tmp_path / "shapes"), **SIZE)
    yield tmp_path / "shapes"
    register_shapes()


@pytest.mark.parametrize(("name", "channels"), [("grey8", 1), ("grey16", 1), ("5_channels", 5)])
def test_images_and_labels_are_those_of_the_shapes(root: Path, name: str, channels: int) -> None:
    if channels == 5:
        pytest.importorskip("tifffile")
    plain = DatasetCatalog.get("shapes_val")
    records = DatasetCatalog.get(f"shapes_{name}_val")
    assert len(records) == 4 and (root / f"val_{name}").is_dir()
    for record, source in zip(records, plain, strict=True):
        rgb = read_image(source["file_name"], "RGB").astype(float)
        grey = rgb @ [0.299, 0.587, 0.114]
        image = read_image(record["file_name"], channels)
        assert read_stored(record["file_name"]).dtype == ("uint8" if name == "grey8" else "uint16")
        assert record["annotations"] == source["annotations"]
        if name == "grey8":
            assert np.abs(image[..., 0] - grey).max() <= 0.5
        elif name == "grey16":
            assert np.abs(image[..., 0] / 16 - grey).max() < 0.04
        else:
            assert np.array_equal(image[..., :3], rgb * 16)
            assert np.abs(255 - image[..., 3] / 16 - grey).max() < 0.04
            assert np.array_equal(image[..., 4], 20000 + 8 * (rgb[..., 0] - rgb[..., 2]))
    metadata = MetadataCatalog.get(f"shapes_{name}_val")
    assert metadata.thing_classes == MetadataCatalog.get("shapes_val").thing_classes
    times = {file: file.stat().st_mtime_ns for file in (root / f"val_{name}").iterdir()}
    DatasetCatalog.get(f"shapes_{name}_val")
    assert times == {file: file.stat().st_mtime_ns for file in (root / f"val_{name}").iterdir()}
