"""The losses, each alone."""

import pytest
import torch
from case_files import Case, check
from detection_cases.reader import reads
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, Instances, pairwise_ioa, pairwise_iou
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from vit_adapter.detection import giou_loss
from vit_adapter.detection.boxes import overlap
from vit_adapter.detection.dense.gfl import Integral
from vit_adapter.detection.dense.losses import distribution_focal_loss, quality_focal_loss
from vit_adapter.segmentation.losses import pixel_cross_entropy

# By what the sum over the elements is divided, where the elements are not stored
DIVISORS = {"ce": 11.0, "bce_soft": 9.0, "bce_rpn": 13.0}
BETAS = {"l1": 0.0, "smooth_l1_beta1": 1.0, "smooth_l1_beta_ninth": 1 / 9}
ELEMENTWISE = ("qfl", "dfl", "giou", "focal", *BETAS, *DIVISORS)


def elements_of(name: str, case: Case, values: Tensor) -> Tensor:
    """The losses before they are summed, with the weight of the loss."""
    if name == "qfl":
        return quality_focal_loss(values, case["labels"], case["quality"])
    if name == "dfl":
        return 0.25 * distribution_focal_loss(values, case["target"])
    if name == "giou":
        return 2 * giou_loss(values, case["target"])
    if name in BETAS:
        return smooth_l1_loss(values, case["target"], beta=BETAS[name])
    if name == "focal":
        targets = functional.one_hot(case["labels"], values.shape[1] + 1)[:, :-1]
        return sigmoid_focal_loss(values, targets.to(values), alpha=0.25, gamma=2.0)
    if name == "ce":
        return functional.cross_entropy(values, case["labels"], reduction="none")
    targets = case["target"] if name == "bce_soft" else 1 - case["labels"][:, None]  # 0: object
    return functional.binary_cross_entropy_with_logits(values, targets, reduction="none")


@reads("losses", *(f"{name}.*" for name in ELEMENTWISE))
def test_elementwise_losses(case: Case) -> None:
    for name in ELEMENTWISE:
        part = case.within(f"{name}.")
        source = "pred" if "pred" in part else "logits"
        values = part[source].clone().requires_grad_()
        elements = elements_of(name, part, values)
        weights = part["weight"] if "weight" in part else torch.ones(len(values))
        weights = weights.reshape(len(weights), -1) if elements.ndim > 1 else weights
        if name in DIVISORS:
            divisor = DIVISORS[name]
        else:
            check(elements, part["elementwise"])
            divisor = (part["elementwise"] * weights).sum() / part["loss"]
        loss = (elements * weights).sum() / divisor
        check(loss, part["loss"])
        loss.backward()
        check(values.grad, part[f"grad.{source}"])


@reads("losses", "iou.*", "giou.pred", "giou.target")
def test_overlap(case: Case) -> None:
    first, second = case["giou.pred"], case["giou.target"]
    check(overlap(first, second)[0], case["iou.aligned"])
    check(overlap(first[:, None], second)[0], case["iou.matrix"])
    check(pairwise_iou(Boxes(first), Boxes(second)), case["iou.matrix"])
    check(pairwise_ioa(Boxes(second), Boxes(first)).T, case["iou.iof_matrix"])


@reads("losses", "integral.*")
def test_integral(case: Case) -> None:
    values = case["integral.in"].clone().requires_grad_()
    expected = Integral(values.shape[1] // 4 - 1)(values)
    check(expected, case["integral.out"])
    expected.square().sum().backward()
    check(values.grad, case["integral.grad_of_sum"])


@reads("losses", "mask_bce.*")
@pytest.mark.usefixtures("storage")
def test_mask_loss(case: Case) -> None:
    """Each box is its whole bitmap, which then stays as it is."""
    logits = case["mask_bce.logits"].clone().requires_grad_()
    targets = case["mask_bce.target"]
    height, width = targets.shape[-2:]
    boxes = torch.tensor([[0.0, 0.0, width, height]]).repeat(len(targets), 1)
    regions = Instances(
        (height, width),
        proposal_boxes=Boxes(boxes),
        gt_classes=case["mask_bce.labels"],
        gt_masks=BitMasks(targets),
    )
    loss = mask_rcnn_loss(logits, [regions])
    check(loss, case["mask_bce.loss"])
    loss.backward()
    check(logits.grad, case["mask_bce.grad.logits"])


@reads("losses", "semantic.*")
def test_semantic_loss(case: Case) -> None:
    logits = case["semantic.logits"].clone().requires_grad_()
    loss = 0.2 * pixel_cross_entropy(logits, case["semantic.labels"])
    check(loss, case["semantic.loss"])
    loss.backward()
    check(logits.grad, case["semantic.grad.logits"])
