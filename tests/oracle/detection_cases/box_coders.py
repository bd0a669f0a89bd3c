"""Coding of boxes as deltas, and as distances from a point."""

import torch
from case_files import Case, check
from detection_cases.reader import reads

from vit_adapter.detection import ClampedBox2BoxTransform
from vit_adapter.detection.boxes import box_distances, clip_boxes
from vit_adapter.detection.dense.gfl import distances_to_boxes

STRIDE = 8  # of the points that are decoded
REG_MAX = 16


@reads("box_coders", "delta.*")
def test_deltas(case: Case) -> None:
    case = case.within("delta.")
    size = tuple(case["img_shape"].tolist())
    for stage in (case.within(f"{name}.") for name in ("rpn", "stage0", "stage1", "stage2")):
        coder = ClampedBox2BoxTransform([1 / std for std in stage["stds"].tolist()])
        check(coder.get_deltas(case["rois"], case["gt"]), stage["encoded"])
        deltas = case["deltas"].clone().requires_grad_()
        decoded = coder.apply_deltas(deltas, case["rois"])
        check(decoded, stage["decoded"])
        (decoded * torch.arange(1.0, 5.0)).sum().backward()
        check(deltas.grad, stage["grad"])
        check(clip_boxes(decoded, size), stage["decoded_clipped"])
        if "decoded_per_class" in stage:
            decoded = coder.apply_deltas(case["deltas_per_class"], case["rois"])
            boxes = clip_boxes(decoded.unflatten(1, (-1, 4)), size)
            check(boxes.flatten(1), stage["decoded_per_class"])


@reads("box_coders", "dist.*", "delta.img_shape")
def test_distances(case: Case) -> None:
    dist, size = case.within("dist."), tuple(case["delta.img_shape"].tolist())
    distances = box_distances(dist["points"], dist["gt"])
    check(distances, dist["encoded"])
    check(distances.clamp(0, REG_MAX - 0.1), dist["encoded_max16"])
    distances = box_distances(dist["points"], dist["gt_big"])
    check(distances.clamp(0, REG_MAX - 0.1), dist["encoded_big_max16"])
    decoded = distances_to_boxes(dist["points"] * STRIDE, dist["distances"] * STRIDE)
    check(decoded, dist["decoded"])
    check(clip_boxes(decoded, size), dist["decoded_clipped"])
