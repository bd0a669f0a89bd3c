"""Parts of ATSS and GFL against numbers computed by the original's library."""

import sys
from pathlib import Path

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from vit_adapter.detection import ClampedBox2BoxTransform, giou_loss
from vit_adapter.detection.boxes import clip_boxes, overlap
from vit_adapter.detection.dense.assigner import (
    candidate_thresholds,
    match_anchors,
    nearest_anchors,
)
from vit_adapter.detection.dense.losses import (
    distribution_focal_loss,
    quality_focal_loss,
)

sys.path.insert(0, str(Path(__file__).parent))
import golden_dense as golden  # noqa: E402

TOPK = 9
FLOAT64 = 1e-9


@pytest.fixture(scope="module")
def losses() -> golden.Arrays:
    return golden.read("losses")


@pytest.mark.parametrize(
    ("name", "divisor"), [("qfl", 7.0), ("dfl", 4.0), ("giou", 3.0), ("focal", 5.0)]
)
def test_losses(name: str, divisor: float, losses: golden.Arrays) -> None:
    stored = golden.with_prefix(losses, f"{name}.")
    source = "pred" if name == "giou" else "logits"
    values = stored[source].clone().requires_grad_()
    weights = stored["weight"]
    if name == "qfl":
        elements = quality_focal_loss(values, stored["labels"], stored["quality"])
    elif name == "dfl":
        elements = 0.25 * distribution_focal_loss(values, stored["target"])
    elif name == "giou":
        elements = 2 * giou_loss(values, stored["target"])
    else:
        one_hot = torch.eye(values.shape[1] + 1)[stored["labels"]][:, :-1].to(values)
        elements = sigmoid_focal_loss(values, one_hot, alpha=0.25, gamma=2.0)
        weights = weights[:, None]
    golden.assert_near(elements, stored["elementwise"], FLOAT64, name)
    loss = (elements * weights).sum() / divisor
    golden.assert_near(loss, stored["loss"], FLOAT64, name)
    loss.backward()
    golden.assert_near(values.grad, stored[f"grad.{source}"], FLOAT64, name)


def test_overlap(losses: golden.Arrays) -> None:
    first, second = losses["giou.pred"], losses["giou.target"]
    golden.assert_near(overlap(first, second)[0], losses["iou.aligned"], FLOAT64, "aligned")
    matrix = overlap(first[:, None], second)[0]
    golden.assert_near(matrix, losses["iou.matrix"], FLOAT64, "matrix")


@pytest.mark.parametrize("stage", ["rpn", "stage0", "stage1", "stage2"])
def test_box_deltas(stage: str) -> None:
    stored = golden.with_prefix(golden.read("box_coders"), "delta.")
    transform = ClampedBox2BoxTransform(weights=(1 / stored[f"{stage}.stds"]).tolist())
    deltas = stored["deltas"].clone().requires_grad_()
    boxes = transform.apply_deltas(deltas, stored["rois"])
    golden.assert_near(boxes, stored[f"{stage}.decoded"], FLOAT64, "decoded")
    clipped = clip_boxes(boxes, tuple(stored["img_shape"].tolist()))
    golden.assert_near(clipped, stored[f"{stage}.decoded_clipped"], FLOAT64, "clipped")
    (boxes * torch.arange(1, 5)).sum().backward()
    golden.assert_near(deltas.grad, stored[f"{stage}.grad"], FLOAT64, "gradient")


def scenes() -> list[str]:
    names = golden.read("atss_assigner") if golden.FOLDER.is_dir() else {}
    return sorted({name.split(".")[0] for name in names})


def test_the_folder_has_scenes() -> None:
    assert scenes(), f"no scene of the assigner in {golden.FOLDER}"


@pytest.mark.parametrize("scene", scenes())
def test_assigner(scene: str) -> None:
    stored = golden.with_prefix(golden.read("atss_assigner"), f"{scene}.")
    levels = stored["bboxes"].split(stored["num_level_bboxes"].tolist())
    matched, ious = match_anchors(levels, stored["gt_bboxes"], topk=TOPK)
    assert torch.equal(matched + 1, stored["assigned_gt_inds"])
    labels = torch.cat((stored["gt_labels"], torch.tensor([-1])))[matched]
    assert torch.equal(labels, stored["assigned_labels"])
    if not len(stored["gt_bboxes"]):
        return
    positive = matched >= 0
    expected = stored["max_overlaps"]
    golden.assert_near(ious[positive], expected[positive], FLOAT64, "overlaps")
    candidates = nearest_anchors(levels, stored["gt_bboxes"], topk=TOPK)
    clear = ~stored["tie_at_cut"]
    assert torch.equal(candidates.sort(0).values[:, clear], stored["candidates"][:, clear])
    ious = overlap(stored["bboxes"][candidates], stored["gt_bboxes"])[0]
    thresholds = candidate_thresholds(ious)
    golden.assert_near(thresholds, stored["iou_threshold"], FLOAT64, "thresholds")
