"""Sparse R-CNN as a whole: gradients, sizes of images, detections, and odd batches."""

import math
from collections.abc import Sequence

import pytest
import torch
from detectron2.export import TracingAdapter
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from vit_adapter.detection import (
    ClampedBox2BoxTransform,
    InteractionStage,
    LearnedProposals,
    ProposalCriterion,
    ProposalMatcher,
    SparseHeads,
)
from vit_adapter.test_time import DetectorTiles, DetectorViews, Suppression

CLASSES, PROPOSALS = 3, 5
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class Convolutions(Backbone):
    """One strided convolution for each output."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({k: nn.Conv2d(3, 8, s, stride=s) for k, s in STRIDES.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: conv(images) for name, conv in self.convs.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=8, stride=stride) for name, stride in STRIDES.items()}


def make(num_stages: int = 2, **changes: object) -> GeneralizedRCNN:
    torch.manual_seed(0)
    stages = [
        InteractionStage(
            channels=8, num_classes=CLASSES, num_heads=2, dynamic_channels=4, ffn_channels=16
        )
        for _ in range(num_stages)
    ]
    pooler = ROIPooler(
        output_size=7,
        scales=[1 / stride for stride in STRIDES.values()],
        sampling_ratio=2,
        pooler_type="ROIAlignV2",
    )
    heads = SparseHeads(
        num_classes=CLASSES,
        in_features=["p2", "p3", "p4", "p5"],
        box_pooler=pooler,
        stages=stages,
        box2box_transform=ClampedBox2BoxTransform(weights=(2.0, 2.0, 1.0, 1.0)),
        criterion=ProposalCriterion(matcher=ProposalMatcher()),
        **changes,
    )
    return GeneralizedRCNN(
        backbone=FPN(Convolutions(), list(STRIDES), 8),
        proposal_generator=LearnedProposals(num_proposals=PROPOSALS, channels=8),
        roi_heads=heads,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
    )


def make_input(height: int, width: int, boxes: Sequence[Sequence[float]]) -> dict:
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % CLASSES
    return {"image": torch.rand(3, height, width), "instances": instances}


BATCHES = {
    "ordinary": [[[10, 10, 60, 70], [30, 5, 90, 50]], [[20, 20, 50, 50]]],
    "one image without boxes": [[[10, 10, 60, 70]], []],
    "no boxes": [[], []],
    "one pixel": [[[15.5, 15.5, 16.5, 16.5]], []],
    "no area": [[[15, 15, 15, 15]], []],
    "outside the image": [[[500, 500, 600, 600]], []],
    "more boxes than proposals": [[[i, i, i + 20, i + 30] for i in range(9)], []],
}


@pytest.mark.parametrize("batch", BATCHES)
def test_every_parameter_gets_a_gradient(batch: str) -> None:
    """Else distributed training would wait for it."""
    model = make()
    losses = model([make_input(96, 96, boxes) for boxes in BATCHES[batch]])
    total = sum(losses.values())
    assert len(losses) == 6 and total.isfinite()
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_boxes_carry_no_gradient_to_the_stage_before() -> None:
    """The learned boxes get theirs from the first stage; features of proposals get it from all."""
    model = make(num_stages=3)
    losses = model([make_input(96, 96, [[10, 10, 60, 70]])])
    proposals = model.proposal_generator
    later = losses["loss_l1_stage1"] + losses["loss_giou_stage2"] + losses["loss_cls_stage2"]
    later.backward(retain_graph=True)
    assert proposals.boxes.weight.grad is None
    assert model.roi_heads.stages[0].bbox_pred.weight.grad is None
    assert proposals.features.weight.grad.any()
    losses["loss_l1_stage0"].backward()
    assert proposals.boxes.weight.grad.any()


def test_a_stage_pools_from_the_boxes_of_the_one_before() -> None:
    model = make()
    pooled = []
    pooler = model.roi_heads.box_pooler
    pooler.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[1][0].tensor))
    first = model.roi_heads.stages[0].bbox_pred
    nn.init.zeros_(first.weight)
    with torch.no_grad():
        first.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    model.eval()([make_input(64, 96, [])])
    whole = torch.tensor([[0.0, 0.0, 96.0, 64.0]])
    torch.testing.assert_close(pooled[0], whole.expand(PROPOSALS, 4))
    # Half a width to the right, and e times as high; nothing is clipped to the image
    half = 32 * math.e
    moved = torch.tensor([[48.0, 32 - half, 144.0, 32 + half]])
    torch.testing.assert_close(pooled[1], moved.expand(PROPOSALS, 4))


def test_proposals_are_shares_of_the_images_before_padding() -> None:
    proposals = LearnedProposals(num_proposals=2, channels=4)
    with torch.no_grad():
        proposals.boxes.weight[1] = torch.tensor([0.25, 0.5, 0.5, 0.1])
    images = ImageList(torch.zeros(2, 3, 96, 96), [(40, 80), (96, 96)])
    (small, large), losses = proposals(images, {})
    assert losses == {}
    expected = torch.tensor([[0.0, 0, 80, 40], [0, 18, 40, 22]])
    torch.testing.assert_close(small.proposal_boxes.tensor, expected)
    assert large.proposal_boxes.tensor[0].tolist() == [0, 0, 96, 96]
    assert torch.equal(small.proposal_features, proposals.features.weight)
    assert proposals.features.weight.shape == (2, 4)


def test_losses_are_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = make()([make_input(96, 96, [[10, 10, 60, 70]])])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_detections_are_the_best_pairs_of_the_last_stage() -> None:
    model = make(test_topk_per_image=4).eval()
    stored = []
    model.roi_heads.stages[1].register_forward_hook(lambda *values: stored.append(values[2][0]))
    with torch.no_grad():
        (found,) = model.inference([make_input(64, 96, [])], do_postprocess=False)
    (logits,) = stored[0]
    pairs = [
        (logits[i, label].sigmoid().item(), label)
        for i in range(PROPOSALS)
        for label in range(CLASSES)
    ]
    best = sorted(pairs, reverse=True)[:4]
    assert found.scores.tolist() == pytest.approx([score for score, _ in best])
    assert found.pred_classes.tolist() == [label for _, label in best]
    assert len(found.pred_boxes) == 4


def test_detections_have_the_size_that_the_input_requests() -> None:
    model = make().eval()
    with torch.no_grad():
        (output,) = model([{**make_input(60, 90, []), "height": 120, "width": 180}])
    found = output["instances"]
    assert found.image_size == (120, 180)
    assert 0 < len(found) <= PROPOSALS * CLASSES  # fewer than 300
    boxes = found.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes <= torch.tensor([180.0, 120.0, 180.0, 120.0])).all()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_a_traced_model_finds_the_same_in_other_images() -> None:
    model = make(test_topk_per_image=6).eval()
    first, second = torch.rand(3, 64, 96), 2 * torch.randn(3, 64, 96)
    adapter = TracingAdapter(model, [{"image": first}])
    with torch.no_grad():
        traced = torch.jit.trace(adapter, (first,), check_trace=False)
        for image in (first, second):
            torch.testing.assert_close(traced(image), adapter(image))


def test_wrappers_for_testing_change_nothing_as_they_stand() -> None:
    model = make(test_topk_per_image=7).eval()
    inputs = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}]
    with torch.no_grad():
        expected = model(inputs)[0]["instances"]
        for wrapper in (
            DetectorViews(model),
            DetectorTiles(model, size=(64, 96), overlap=(0, 0)),
        ):
            found = wrapper(inputs)[0]["instances"]
            assert found.get_fields().keys() == expected.get_fields().keys()
            assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
            assert torch.equal(found.scores, expected.scores)
            assert torch.equal(found.pred_classes, expected.pred_classes)


def test_views_are_merged_by_the_threshold_of_the_test() -> None:
    """The model itself suppresses nothing."""
    model = make().eval()
    inputs = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}]
    with pytest.raises(ValueError, match="does not remove overlapping boxes.* an iou_threshold"):
        DetectorViews(model, scales=[64], flip=True)
    loose, strict = (
        DetectorViews(model, scales=[64], flip=True, nms=nms)(inputs)[0]["instances"]
        for nms in (Suppression(iou_threshold=1.0), Suppression(iou_threshold=0.5))
    )
    assert 0 < len(strict) < len(loose)
    assert strict.scores[0] == loose.scores[0]


def test_without_stages() -> None:
    with pytest.raises(ValueError, match="stages must have at least one entry, got none"):
        make(num_stages=0)
