"""The tool that makes panoptic data of semantic labels."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image
from tool_files import load_tool

import vit_adapter
from vit_adapter.data import register_panoptic_format
from vit_adapter.data.catalog import unregister
from vit_adapter.data.image_io import read_segment_ids

TOOL = Path(vit_adapter.__file__).parents[1] / "tools/panoptic_from_semantic.py"
NAME = "panoptic_of_a_test"
# classes: road, car, sky; 255 has no class
LABELS = np.array(
    [
        [1, 0, 0, 0, 1],
        [0, 1, 0, 1, 255],
        [2, 2, 0, 0, 0],
        [2, 2, 1, 1, 1],
    ],
    np.uint8,
)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("panoptic_from_semantic")


def test_components_of_things_are_objects(tool: ModuleType) -> None:
    ids, segments = tool.find_segments(LABELS, {1})
    masks = {s["id"]: (ids == s["id"]).astype(int).tolist() for s in segments}
    found = [(s["category_id"], masks[s["id"]]) for s in segments]
    nothing = [0] * 5
    assert found == [
        (0, [[0, 1, 1, 1, 0], [1, 0, 1, 0, 0], [0, 0, 1, 1, 1], nothing]),
        (1, [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], nothing, nothing]),  # they touch at a corner
        (1, [[0, 0, 0, 0, 1], [0, 0, 0, 1, 0], nothing, nothing]),
        (1, [nothing, nothing, nothing, [0, 0, 1, 1, 1]]),
        (2, [nothing, nothing, [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]),
    ]
    assert ids[1, 4] == 0
    assert [s["area"] for s in segments] == [8, 2, 2, 3, 4]


def test_small_objects_get_no_label(tool: ModuleType) -> None:
    ids, segments = tool.find_segments(LABELS, {1}, min_area=3)
    assert [s["category_id"] for s in segments] == [0, 1, 2]
    assert [s["id"] for s in segments] == [1, 2, 3]
    assert (ids == 0).sum() == 5


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Three images, of which the second has no label."""
    for folder in ("images/a", "labels/a"):
        (tmp_path / folder).mkdir(parents=True)
    for name, labels in (("x", LABELS), ("y", np.full_like(LABELS, 255)), ("z", LABELS)):
        Image.new("RGB", (5, 4)).save(tmp_path / f"images/a/{name}.jpg")
        Image.fromarray(labels).save(tmp_path / f"labels/a/{name}.png")
    (tmp_path / "classes.json").write_text(json.dumps(["road", "car", "sky"]))
    files = {"images": "images", "labels": "labels", "classes": "classes.json"}
    files |= {"json": "new/out.json", "pngs": "new/maps"}
    return [text for key, name in files.items() for text in (f"--{key}", f"{tmp_path}/{name}")]


def test_the_result_can_be_trained_on(
    tool: ModuleType, arguments: list[str], tmp_path: Path
) -> None:
    tool.main([*arguments, "--things", "car"])
    metadata = register_panoptic_format(
        NAME, tmp_path / "new/out.json", tmp_path / "new/maps", tmp_path / "images"
    )
    records = DatasetCatalog.get(NAME)
    unregister(NAME)
    assert metadata.stuff_classes == ["car", "road", "sky"]
    assert [Path(r["file_name"]).name for r in records] == ["x.jpg", "z.jpg"]  # y has no label
    assert len(records[0]["segments_info"]) == 5
    assert read_segment_ids(records[1]["pan_seg_file_name"])[1, 4] == 0


def smaller_labels(folder: Path) -> None:
    Image.fromarray(LABELS[:3]).save(folder / "labels/a/z.png")


def unknown_class(folder: Path) -> None:
    Image.fromarray(LABELS + 1).save(folder / "labels/a/z.png")


def no_classes(folder: Path) -> None:
    (folder / "classes.json").unlink()


def no_label(folder: Path) -> None:
    for name in "xz":
        Image.fromarray(np.full_like(LABELS, 255)).save(folder / f"labels/a/{name}.png")


@pytest.mark.parametrize(
    ("change", "thing", "message"),
    [
        (lambda folder: None, "cat", r"--things has \['cat'\], but the classes are road, car, sky"),
        (smaller_labels, "car", r"z.jpg has 5 x 4 pixels .*z.png has 5 x 3"),
        (unknown_class, "car", r"z.png has the values 3"),
        (no_classes, "car", r"classes.json does not exist"),
        (no_label, "car", r"No label map in .*labels has a segment"),
    ],
)
def test_unusable_input_is_named(
    tool: ModuleType,
    arguments: list[str],
    tmp_path: Path,
    change: Callable[[Path], None],
    thing: str,
    message: str,
) -> None:
    change(tmp_path)
    with pytest.raises(SystemExit, match=message):
        tool.main([*arguments, "--things", thing])
    assert not (tmp_path / "new/out.json").exists()
