"""Pooling, and masks in boxes and images."""

import torch
from case_files import Case, check
from detection_cases.reader import reads
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import BitMasks, Boxes
from torch import Tensor

from vit_adapter.detection.boxes import clip_boxes

STRIDES = [4, 8, 16, 32]


def pool(features: list[Tensor], strides: list[int], boxes: list[Boxes], size: int) -> Tensor:
    scales = [1 / stride for stride in strides]
    pooler = ROIPooler(size, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")
    return pooler(features, boxes)


def by_image(rois: Tensor, count: int) -> tuple[list[Boxes], Tensor]:
    """The boxes of each image, and their places among all."""
    order = rois[:, 0].argsort(stable=True)
    return [Boxes(rois[rois[:, 0] == image, 1:]) for image in range(count)], order


@reads("roi_ops", "feat?", "rois", "levels", "out*", "grad7.*")
def test_region_pooling(case: Case) -> None:
    features = [each.requires_grad_() for each in case.numbered("feat")]
    boxes, order = by_image(case["rois"], len(features[0]))
    # The levels of the pyramid are 2 to 5; a box of 224 pixels is pooled from level 4.
    levels = assign_boxes_to_levels(boxes, 2, 5, 224, 4)
    check(levels, case["levels"][order])
    check(pool(features, STRIDES, boxes, 14), case["out14"][order])
    pooled = pool(features, STRIDES, boxes, 7)
    check(pooled, case["out7"][order])
    pooled.square().sum().backward()
    for i, feature in enumerate(features):
        check(feature.grad, case[f"grad7.feat{i}"])


@reads("roi_ops", "feat1", "rois", "semantic*")
def test_semantic_pooling(case: Case) -> None:
    """The first regions, all on the map of stride 8; averaged down to 7x7 for the boxes."""
    rois = case["rois"][: len(case["semantic14"])]
    boxes, order = by_image(rois, len(case["feat1"]))
    pooled = pool([case["feat1"]], [8], boxes, 14)
    check(pooled, case["semantic14"][order])
    averaged = torch.nn.functional.adaptive_avg_pool2d(pooled, 7)
    check(averaged, case["semantic7"][order])


@reads("roi_ops", "mask_target.*")
def test_mask_targets(case: Case) -> None:
    """They are cut from bitmaps."""
    bitmaps, targets = case["mask_target.bitmaps"], case["mask_target.out"]
    boxes = clip_boxes(case["mask_target.proposals"], tuple(bitmaps.shape[-2:]))
    masks = BitMasks(bitmaps[case["mask_target.gt_index"]])
    check(masks.crop_and_resize(boxes, targets.shape[-1]), targets)


@reads("roi_ops", "paste.*")
def test_pasted_masks(case: Case) -> None:
    probabilities, pasted = case["paste.probs"], case["paste.out"]
    computed = paste_masks_in_image(
        probabilities, Boxes(case["paste.boxes"]), tuple(pasted.shape[-2:]), threshold=0.5
    )
    sure = (pasted - 0.5).abs() > 1e-5  # pasting is in float32
    check(computed[sure], pasted[sure] >= 0.5)
