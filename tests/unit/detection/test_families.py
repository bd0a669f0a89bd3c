"""What every family of detectors can do: train in bfloat16, without masks, in two processes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from forked import run_group
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def make_input(*, count: int = 2, masks: bool = True) -> dict[str, object]:
    """An image with up to two objects, whose masks fill their boxes, and semantic labels."""
    boxes = torch.tensor([[8, 8, 48, 40], [30, 20, 80, 55]])[:count]
    instances = Instances((60, 90), gt_boxes=Boxes(boxes.float()))
    instances.gt_classes = torch.tensor([0, 2])[:count]
    if masks and count:  # as the mapper does
        bitmaps = torch.zeros(count, 60, 90, dtype=torch.bool)
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


@pytest.mark.parametrize(
    ("family", "prefixes"),
    [
        ("mask_rcnn", [""]),
        ("cascade", ["stage0/", "stage1/", "stage2/"]),
        ("htc", ["stage0/", "stage1/", "stage2/"]),
    ],
)
def test_numbers_of_samples_are_logged(
    family: str, prefixes: list[str], make_detector: Callable[..., nn.Module]
) -> None:
    """Under Detectron2's names."""
    with EventStorage() as storage:
        make_detector(family)([make_input(), make_input(count=0)])
    logged = {name: value for name, (value, _) in storage.latest().items() if "_samples" in name}
    kinds = ("num_fg_samples", "num_bg_samples")
    assert set(logged) == {f"{prefix}roi_head/{kind}" for prefix in prefixes for kind in kinds}
    for prefix in prefixes:
        foreground, background = (logged[f"{prefix}roi_head/{kind}"] for kind in kinds)
        assert 1 <= foreground <= 2  # per image; the two truths are among them
        assert foreground + background <= 16


def test_data_without_masks(family: str, make_detector: Callable[..., nn.Module]) -> None:
    model = make_detector(family, masks=False)
    with EventStorage():
        assert untrained(model, [make_input(masks=False), make_input(masks=False)]) == []
    with torch.no_grad():
        (found,) = model.eval()([{"image": make_input()["image"], "height": 120, "width": 180}])
    fields = found["instances"].get_fields()
    assert fields.keys() == {"pred_boxes", "scores", "pred_classes"}


@pytest.mark.slow
def test_two_processes() -> None:
    """See the program."""
    run_group(Path(__file__).with_name("two_processes.py"))
