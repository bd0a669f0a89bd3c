"""What every family of detectors can do: train in bfloat16 and without masks, predict."""

from collections.abc import Callable

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def make_input(*, masks: bool = True) -> dict[str, object]:
    """An image with two objects, whose masks fill their boxes, and semantic labels."""
    boxes = torch.tensor([[8, 8, 48, 40], [30, 20, 80, 55]])
    instances = Instances((60, 90), gt_boxes=Boxes(boxes.float()))
    instances.gt_classes = torch.tensor([0, 2])
    if masks:
        bitmaps = torch.zeros(2, 60, 90, dtype=torch.bool)
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes, strict=True):
            bitmap[y1:y2, x1:x2] = True
        instances.gt_masks = BitMasks(bitmaps)
    image = torch.randint(256, (3, 60, 90), dtype=torch.uint8)
    return {"image": image, "instances": instances, "sem_seg": torch.randint(5, (60, 90))}


def untrained(model: nn.Module, batch: list[dict[str, object]]) -> list[str]:
    """Names of the parameters that no loss reaches."""
    losses = model(batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


def test_training_in_bfloat16(family: str, make_detector: Callable[..., nn.Module]) -> None:
    model = make_detector(family)
    with EventStorage(), torch.autocast("cpu", torch.bfloat16):
        assert untrained(model, [make_input(), make_input()]) == []


def test_data_without_masks(family: str, make_detector: Callable[..., nn.Module]) -> None:
    model = make_detector(family, masks=False)
    with EventStorage():
        assert untrained(model, [make_input(masks=False), make_input(masks=False)]) == []
    with torch.no_grad():
        (found,) = model.eval()([{"image": make_input()["image"], "height": 120, "width": 180}])
    fields = found["instances"].get_fields()
    assert fields.keys() == {"pred_boxes", "scores", "pred_classes"}
