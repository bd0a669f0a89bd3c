"""Input dicts as plain data, there and back."""

from pathlib import Path

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, Keypoints, PolygonMasks

from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.checkpoint.plain_data import from_plain, to_plain


def test_a_batch_is_stored_as_plain_data(tmp_path: Path) -> None:
    masks = torch.rand(3, 5, 7) > 0.5
    polygons = [[np.array([0.0, 0, 2, 0, 2, 2])], [np.ones(8), np.zeros(6)], [np.arange(6.0)]]
    instances = Instances(
        (5, 7),
        gt_boxes=Boxes(torch.rand(3, 4)),
        gt_classes=torch.tensor([0, 2, 1]),
        gt_masks=BitMasks(masks),
        gt_keypoints=Keypoints(torch.rand(3, 2, 3)),
    )
    batch = [
        {
            "image": torch.randint(0, 255, (3, 5, 7), dtype=torch.uint8),
            "instances": instances,
            "outlines": PolygonMasks(polygons),
            "height": np.int64(9),
            "file_name": np.str_("a.png"),
            "array": np.arange(4, dtype=np.int16),
            "nested": {"list": [1, (np.float64(2.5), None)], "flag": True},
            "unknown": Path("x"),
        }
    ]
    torch.save(to_plain(batch), tmp_path / "batch.pth")
    [read] = from_plain(torch.load(tmp_path / "batch.pth", weights_only=True))
    assert read["image"].equal(batch[0]["image"])
    assert read["height"] == 9 and read["file_name"] == "a.png"
    assert read["nested"] == {"list": [1, [2.5, None]], "flag": True}
    assert read["array"].dtype == np.int16 and read["array"].tolist() == [0, 1, 2, 3]
    assert read["unknown"] is None
    assert read["instances"].image_size == (5, 7)
    for name in ("gt_boxes", "gt_masks", "gt_keypoints"):
        one, other = read["instances"].get(name), instances.get(name)
        assert type(one) is type(other) and one.tensor.equal(other.tensor)
        assert one.tensor.dtype == other.tensor.dtype
    assert read["instances"].gt_classes.equal(instances.gt_classes)
    for one, other in zip(read["outlines"].polygons, polygons, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_masks_are_stored_as_bits_and_nothing_is_shared() -> None:
    masks = BitMasks(torch.ones(2, 64, 64, dtype=torch.bool))
    assert to_plain(masks)["bits"].numel() == 2 * 64 * 64 // 8
    image = torch.zeros(4)
    plain = to_plain([image, Boxes(torch.zeros(1, 4))])
    image.add_(1)
    assert plain[0].equal(torch.zeros(4))


def test_a_batch_without_masks() -> None:
    empty = from_plain(to_plain(BitMasks(torch.zeros(0, 5, 7, dtype=torch.bool))))
    assert empty.tensor.shape == (0, 5, 7)


def test_enums_and_arrays_of_text(tmp_path: Path) -> None:
    record = {"mode": BoxMode.XYWH_ABS, "names": np.array(["a", "b"]), "counts": np.arange(2)}
    torch.save({"record": to_plain(record)}, tmp_path / "record.pth")
    plain = load_checkpoint_file(tmp_path / "record.pth")["record"]
    found = from_plain(plain)
    assert found["mode"] == BoxMode.XYWH_ABS and type(found["mode"]) is int
    assert found["names"] is None and plain["names"]["class"] == "numpy.ndarray"
    assert found["counts"].tolist() == [0, 1]
