"""Detectors against numbers computed by the original's own libraries, in float64.

Reads the files in the folder named by ``VIT_ADAPTER_GOLDEN_DETECTION``, by default the
``golden_detection`` folder beside this file. Sizes come from the arrays, constants are those of the
original's configs. Parameters have the original's names and go through the converter.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, pairwise_iou
from fvcore.nn import smooth_l1_loss
from torch import Tensor

from vit_adapter.detection import ClampedBox2BoxTransform, MaxIoUAssigner, giou_loss

FOLDER = Path(
    os.environ.get("VIT_ADAPTER_GOLDEN_DETECTION") or Path(__file__).parent / "golden_detection"
)
Arrays = dict[str, Tensor]

ASSIGNERS = {
    "rpn": MaxIoUAssigner(positive=0.7, negative=0.3, min_positive=0.3, low_quality=True),
    "maskrcnn": MaxIoUAssigner(positive=0.5, negative=0.5, min_positive=0.5, low_quality=True),
    "cascade0": MaxIoUAssigner(positive=0.5, negative=0.5, min_positive=0.5, low_quality=False),
    "cascade1": MaxIoUAssigner(positive=0.6, negative=0.6, min_positive=0.6, low_quality=False),
    "cascade2": MaxIoUAssigner(positive=0.7, negative=0.7, min_positive=0.7, low_quality=False),
    "htc1": MaxIoUAssigner(positive=0.6, negative=0.6, min_positive=0.6, low_quality=True),
    "htc2": MaxIoUAssigner(positive=0.7, negative=0.7, min_positive=0.7, low_quality=True),
}


def read(name: str) -> Arrays:
    with np.load(FOLDER / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def check(computed: Tensor, expected: Tensor) -> None:
    """Compare to 1e-9 of the largest magnitude; whole numbers exactly."""
    computed = computed.detach()
    if not expected.is_floating_point():
        assert torch.equal(computed.to(expected.dtype), expected)
        return
    assert computed.dtype == torch.float64
    assert computed.shape == expected.shape
    scale = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(computed, expected, rtol=0, atol=1e-9 * max(scale, 1e-3))


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is built in float64, and Detectron2's boxes keep it."""

    def keep(boxes: Boxes, tensor: Tensor) -> None:
        boxes.tensor = tensor.reshape(-1, 4)

    monkeypatch.setattr(Boxes, "__init__", keep)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_max_iou_assigner() -> None:
    case = read("max_iou_assigner")
    names = [name for name in case if name.endswith(".gt_inds")]
    assert names
    for name in names:
        scene, kind, _ = name.split(".")
        truths, boxes = Boxes(case[f"{scene}.gt_bboxes"]), Boxes(case[f"{scene}.proposals"])
        matches, labels = ASSIGNERS[kind](truths, boxes)
        check(torch.where(labels > 0, matches + 1, labels), case[name])


@pytest.mark.parametrize("stage", ["rpn", "stage0", "stage1", "stage2"])
def test_box_coder(stage: str) -> None:
    case = {k.removeprefix("delta."): v for k, v in read("box_coders").items() if "delta." in k}
    coder = ClampedBox2BoxTransform([1 / std for std in case[f"{stage}.stds"].tolist()])
    check(coder.get_deltas(case["rois"], case["gt"]), case[f"{stage}.encoded"])
    deltas = case["deltas"].requires_grad_()
    decoded = coder.apply_deltas(deltas, case["rois"])
    check(decoded, case[f"{stage}.decoded"])
    (decoded * torch.arange(1.0, 5.0)).sum().backward()
    check(deltas.grad, case[f"{stage}.grad"])
    size = tuple(case["img_shape"].tolist())
    check(clip(decoded, size), case[f"{stage}.decoded_clipped"])
    if f"{stage}.decoded_per_class" in case:
        decoded = coder.apply_deltas(case["deltas_per_class"], case["rois"])
        check(clip(decoded, size), case[f"{stage}.decoded_per_class"])


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    clipped = Boxes(boxes)
    clipped.clip(size)
    return clipped.tensor.view(boxes.shape)


def test_giou_loss() -> None:
    case = read("losses")
    boxes, targets = case["giou.pred"].requires_grad_(), case["giou.target"]
    losses = 2 * giou_loss(boxes, targets)
    check(losses, case["giou.elementwise"])
    loss = (losses * case["giou.weight"]).sum() / 3
    check(loss, case["giou.loss"])
    loss.backward()
    check(boxes.grad, case["giou.grad.pred"])
    check(pairwise_iou(Boxes(boxes.detach()), Boxes(targets)), case["iou.matrix"])


@pytest.mark.parametrize(
    ("name", "beta"), [("l1", 0.0), ("smooth_l1_beta1", 1.0), ("smooth_l1_beta_ninth", 1 / 9)]
)
def test_smooth_l1_loss(name: str, beta: float) -> None:
    case = read("losses")
    boxes = case[f"{name}.pred"].requires_grad_()
    losses = smooth_l1_loss(boxes, case[f"{name}.target"], beta=beta)
    check(losses, case[f"{name}.elementwise"])
    loss = (losses * case[f"{name}.weight"]).sum() / 24
    check(loss, case[f"{name}.loss"])
    loss.backward()
    check(boxes.grad, case[f"{name}.grad.pred"])


def pooler(size: int) -> ROIPooler:
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    return ROIPooler(size, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")


def test_region_pooling() -> None:
    case = read("roi_ops")
    features = [case[f"feat{i}"].requires_grad_() for i in range(4)]
    images, boxes = case["rois"][:, 0], case["rois"][:, 1:]
    order = images.argsort(stable=True)
    lists = [Boxes(boxes[images == image]) for image in range(len(features[0]))]
    for size in (7, 14):
        pooled = pooler(size)(features, lists)
        check(pooled, case[f"out{size}"][order])
        if size == 7:
            pooled.square().sum().backward()
    for i, feature in enumerate(features):
        check(feature.grad, case[f"grad7.feat{i}"])


def test_masks() -> None:
    """Targets are cut from bitmaps, predictions pasted into the image."""
    case = read("roi_ops")
    bitmaps = case["mask_target.bitmaps"]
    boxes = clip(case["mask_target.proposals"], tuple(bitmaps.shape[-2:]))
    targets = BitMasks(bitmaps[case["mask_target.gt_index"]]).crop_and_resize(boxes, 28)
    check(targets, case["mask_target.out"])
    probabilities, pasted = case["paste.probs"], case["paste.out"]
    computed = paste_masks_in_image(
        probabilities, Boxes(case["paste.boxes"]), tuple(pasted.shape[-2:]), threshold=0.5
    )
    sure = (pasted - 0.5).abs() > 1e-5  # pasting is in float32
    assert torch.equal(computed[sure], (pasted >= 0.5)[sure])
