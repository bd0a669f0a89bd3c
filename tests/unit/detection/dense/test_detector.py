"""ATSS and GFL on batches that real data contain, and what golden cases do not show."""

import math
from collections.abc import Sequence

import pytest
import torch
from detectron2.export import TracingAdapter
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from vit_adapter.detection import (
    ATSS,
    GFL,
    ATSSHead,
    ClampedBox2BoxTransform,
    GFLHead,
    LastLevelStridedConvs,
)
from vit_adapter.detection.dense.detector import AssigningDetector, Detections

CLASSES = 3
STRIDES = {"res3": 8, "res4": 16, "res5": 32}


class Convolutions(Backbone):
    """One strided convolution for each output."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({k: nn.Conv2d(3, 8, s, stride=s) for k, s in STRIDES.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: conv(images) for name, conv in self.convs.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=8, stride=stride) for name, stride in STRIDES.items()}


def make(kind: str, **changes: object) -> AssigningDetector:
    torch.manual_seed(0)
    sizes = {"in_channels": 8, "num_classes": CLASSES, "conv_dims": [64, 64]}
    strides = [8, 16, 32, 64, 128]
    arguments = {
        "backbone": FPN(Convolutions(), list(STRIDES), 8, top_block=LastLevelStridedConvs(8, 8)),
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[8 * s] for s in strides], aspect_ratios=[1.0], strides=strides, offset=0.0
        ),
        "num_classes": CLASSES,
        "pixel_mean": [0.0] * 3,
        "pixel_std": [1.0] * 3,
        **changes,
    }
    if kind == "gfl":
        return GFL(head=GFLHead(**sizes), **arguments)
    transform = ClampedBox2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    return ATSS(head=ATSSHead(**sizes), box2box_transform=transform, **arguments)


def make_input(height: int, width: int, boxes: Sequence[Sequence[float]]) -> dict:
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % CLASSES
    return {"image": torch.rand(3, height, width), "instances": instances}


@pytest.fixture(params=["atss", "gfl"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


BATCHES = {
    "ordinary": [[[10, 10, 60, 70], [30, 5, 90, 50]], [[20, 20, 50, 50]]],
    "one image without boxes": [[[10, 10, 60, 70]], []],
    "no boxes": [[], []],
    "one pixel": [[[15.5, 15.5, 16.5, 16.5]], []],
    "no anchor inside": [[[18, 18, 19, 19]], []],
    "outside the image": [[[500, 500, 600, 600]], []],
    "one class only": [[[10, 10, 60, 70], [0, 0, 1, 1], [0, 0, 2, 2], [40, 40, 90, 90]], []],
}


@pytest.mark.parametrize("batch", BATCHES)
def test_every_parameter_gets_a_gradient(kind: str, batch: str) -> None:
    """Else distributed training would wait for it."""
    model = make(kind)
    losses = model([make_input(96, 96, boxes) for boxes in BATCHES[batch]])
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_padding_of_the_batch_is_not_used(kind: str) -> None:
    model = make(kind)
    sizes = [(96, 128), (40, 64)]
    features = [torch.zeros(2, 8, 96 // s, 128 // s) for s in (8, 16, 32)]
    features += [torch.zeros(2, 8, 2, 2), torch.zeros(2, 8, 1, 1)]
    anchors = model.make_anchors(features)
    instances = [make_input(*size, [[0, 0, 30, 30]])["instances"] for size in sizes]
    labels, _ = model.label_anchors(anchors, sizes, instances)
    centers = (torch.cat(anchors)[:, :2] + torch.cat(anchors)[:, 2:]) / 2
    inside = (centers < torch.tensor([64, 64])).all(1)  # 40 is padded to 64 for the image itself
    assert torch.equal(labels[1] >= 0, inside)
    assert (labels[0] >= 0).all()


def test_losses_are_in_float32_under_autocast(kind: str) -> None:
    model = make(kind)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([make_input(96, 96, BATCHES["ordinary"][0])])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_detections_have_the_size_that_the_input_requests(kind: str) -> None:
    model = make(kind, test_score_thresh=0.0, max_detections_per_image=7).eval()
    inputs = {**make_input(60, 90, []), "height": 120, "width": 180}
    with torch.no_grad():
        (output,) = model([inputs])
    found = output["instances"]
    assert found.image_size == (120, 180) and 0 < len(found) <= 7
    boxes = found.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes <= torch.tensor([180.0, 120.0, 180.0, 120.0])).all()
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_a_traced_model_finds_the_same_in_other_images(kind: str) -> None:
    limits = {"test_nms_thresh": 1.0, "max_detections_per_image": 1000}
    model = make(kind, test_score_thresh=0.01, **limits).eval()
    first, second = torch.rand(3, 64, 96), 2 * torch.randn(3, 64, 96)
    adapter = TracingAdapter(model, [{"image": first}])
    with torch.no_grad():
        traced = torch.jit.trace(adapter, (first,), check_trace=False)
        results = [traced(image) for image in (first, second)]
        for image, found in zip((first, second), results, strict=True):
            torch.testing.assert_close(found, adapter(image))
    assert len(results[0][0]) != len(results[1][0])


def test_without_candidates_there_are_no_detections(kind: str) -> None:
    model = make(kind, test_score_thresh=0.99).eval()
    with torch.no_grad():
        (output,) = model([make_input(64, 64, [])])
    assert len(output["instances"]) == 0


def test_empty_boxes_are_left_out_and_duplicates_suppressed_by_class() -> None:
    boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9], [5, 0, 5, 9], [5, 3, 9, 3.0]])
    scores, classes = torch.tensor([0.5, 0.7, 0.6, 0.9, 0.8]), torch.tensor([1, 1, 0, 1, 1])
    found = make("atss")._choose(Detections(boxes, scores, classes))
    assert found.scores.tolist() == pytest.approx([0.7, 0.6])
    assert found.classes.tolist() == [1, 0]


def test_heads_start_small_with_the_prior_probability(kind: str) -> None:
    head = make(kind).head
    assert head.cls_score.bias.sigmoid().tolist() == pytest.approx([0.01] * CLASSES)
    for conv in (module for module in head.modules() if isinstance(module, nn.Conv2d)):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert [scale.item() for scale in head.scales] == [1.0] * 5


def test_convolutions_before_a_norm_have_no_bias() -> None:
    sizes = {"in_channels": 8, "num_classes": 2, "conv_dims": [32]}
    assert "0.bias" not in ATSSHead(**sizes).cls_subnet.state_dict()
    assert "0.bias" in ATSSHead(**sizes, norm="").cls_subnet.state_dict()


def test_a_head_names_a_wrong_number_of_levels(kind: str) -> None:
    with pytest.raises(ValueError, match="features of 5 levels, got 4; num_levels"):
        make(kind).head([torch.zeros(1, 8, 4, 4)] * 4)


def test_a_head_needs_a_tower() -> None:
    with pytest.raises(ValueError, match="conv_dims must have at least one entry"):
        GFLHead(in_channels=8, num_classes=2, conv_dims=[])


def test_overfits_one_image(kind: str) -> None:
    model = make(kind)
    inputs = make_input(64, 64, [[8, 8, 56, 40]])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(model([inputs]).values()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model([inputs])[0]["instances"]
    best = found.pred_boxes.tensor[0]
    assert found.pred_classes[0] == 0
    assert (best - torch.tensor([8.0, 8, 56, 40])).abs().max() < 8
    assert math.isfinite(found.scores[0])
