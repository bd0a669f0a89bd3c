"""Assigner, box coder, losses, pooling and masks, each alone."""

import pytest
import torch
from detection_cases.reader import (
    check,
    read,
)
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, pairwise_iou
from fvcore.nn import smooth_l1_loss
from torch import Tensor

from vit_adapter.detection import ClampedBox2BoxTransform, MaxIoUAssigner, giou_loss

ASSIGNERS = {
    "rpn": MaxIoUAssigner(positive=0.7, negative=0.3, min_positive=0.3, low_quality=True),
    "maskrcnn": MaxIoUAssigner(positive=0.5, negative=0.5, min_positive=0.5, low_quality=True),
    "cascade0": MaxIoUAssigner(positive=0.5, negative=0.5, min_positive=0.5, low_quality=False),
    "cascade1": MaxIoUAssigner(positive=0.6, negative=0.6, min_positive=0.6, low_quality=False),
    "cascade2": MaxIoUAssigner(positive=0.7, negative=0.7, min_positive=0.7, low_quality=False),
    "htc1": MaxIoUAssigner(positive=0.6, negative=0.6, min_positive=0.6, low_quality=True),
    "htc2": MaxIoUAssigner(positive=0.7, negative=0.7, min_positive=0.7, low_quality=True),
}


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
