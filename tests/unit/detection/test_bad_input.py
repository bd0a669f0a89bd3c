"""Every family of detectors on unusual annotations that real data contain.

The mappers leave out what cannot be learnt. From the rest all losses must be finite, and all
parameters must get a gradient, because several processes would wait for it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import Tensor, nn

from vit_adapter.data import CheckedDatasetMapper, InstanceJitter, InstanceSemanticMapper

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 60, 90
Box = tuple[float, float, float, float]
OBJECT, OTHER = (8, 8, 48, 40), (30, 20, 80, 55)
BATCHES: dict[str, list[list[Box]]] = {
    "one image without boxes": [[OBJECT, OTHER], []],
    "no boxes": [[], []],
    "a box of one pixel": [[(15, 15, 16, 16), OTHER], []],
    "only boxes of one pixel": [[(15, 15, 16, 16)], [(0, 0, 1, 1)]],
    "boxes partly outside": [[(-20, -10, 30, 40), (70, 40, 150, 90)], [OTHER]],
    "a box around the image": [[(-500, -500, 600, 600)], []],
    "equal boxes": [[OBJECT] * 3, []],
    "2000 boxes": [[OBJECT, OTHER] * 1000, [OTHER]],
}
LEFT_OUT: dict[str, list[Box]] = {
    "without area": [(15, 15, 15, 40), (20, 20, 20, 20)],
    "outside": [(500, 500, 600, 600), (-50, -50, -10, -10)],
}


def annotate(box: Box, **changes: object) -> dict[str, object]:
    x1, y1, x2, y2 = box
    polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
    values = {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "segmentation": [polygon]}
    return {**values, "category_id": 0, "iscrowd": 0, **changes}  # classes 1 and 2 have no examples


@pytest.fixture
def load(family: str, tmp_path: Path) -> Callable[[Sequence[dict]], dict]:
    """Read an image with these annotations as the family's config does."""
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    Image.fromarray(np.full((HEIGHT, WIDTH), 4, np.uint8)).save(tmp_path / "a.png")
    options = {"is_train": True, "augmentations": [], "image_format": "RGB"}
    options |= {"use_instance_mask": family not in ("atss", "gfl")}
    options |= {"instance_mask_format": "bitmask" if family == "htc" else "polygon"}
    mapper = CheckedDatasetMapper(**options)
    if family == "htc":
        jitter = InstanceJitter(probability=1.0)
        mapper = InstanceSemanticMapper(num_semantic_classes=5, instance_jitter=jitter, **options)
    record = {"height": HEIGHT, "width": WIDTH, "image_id": 1}
    record |= {"file_name": str(tmp_path / "a.jpg"), "sem_seg_file_name": str(tmp_path / "a.png")}

    def read(annotations: Sequence[dict]) -> dict:
        if family != "htc":
            record.pop("sem_seg_file_name", None)
        return mapper({**record, "annotations": list(annotations)})

    return read


def train(model: nn.Module, batch: Sequence[dict[str, object]]) -> dict[str, Tensor]:
    """One step without the optimizer; all that must hold for any batch is checked."""
    with EventStorage():
        losses = model(batch)
    assert {name: loss.item() for name, loss in losses.items() if not loss.isfinite()} == {}
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [name for name, g in gradients.items() if not g.isfinite().all()] == []
    return losses


@pytest.mark.parametrize("batch", BATCHES)
def test_unusual_objects(
    family: str, batch: str, load: Callable, make_detector: Callable[..., nn.Module]
) -> None:
    inputs = [load([annotate(box) for box in boxes]) for boxes in BATCHES[batch]]
    assert [len(image["instances"]) for image in inputs] == [len(b) for b in BATCHES[batch]]
    train(make_detector(family), inputs)


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_objects_that_cannot_be_learnt_are_left_out(
    family: str, kind: str, load: Callable, make_detector: Callable[..., nn.Module]
) -> None:
    inputs = load([annotate(box) for box in LEFT_OUT[kind]])
    assert len(inputs["instances"]) == 0
    train(make_detector(family), [inputs])


def test_crowds_are_left_out(
    family: str, load: Callable, make_detector: Callable[..., nn.Module]
) -> None:
    inputs = load([annotate(OBJECT, iscrowd=1), annotate(OTHER, iscrowd=1)])
    assert len(inputs["instances"]) == 0
    train(make_detector(family), [inputs])
