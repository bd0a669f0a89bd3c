"""ATSS and GFL against numbers computed by the original's library."""

import sys
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, Backbone
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from vit_adapter.checkpoint.original import convert
from vit_adapter.detection import ClampedBox2BoxTransform, LastLevelStridedConvs, giou_loss
from vit_adapter.detection.boxes import clip_boxes, overlap
from vit_adapter.detection.dense.assigner import (
    candidate_thresholds,
    match_anchors,
    nearest_anchors,
)
from vit_adapter.detection.dense.gfl import Integral, distances_to_boxes
from vit_adapter.detection.dense.losses import (
    distribution_focal_loss,
    quality_focal_loss,
)

sys.path.insert(0, str(Path(__file__).parent))
import golden_dense as golden  # noqa: E402

TOPK = 9
FLOAT64, FLOAT32 = 1e-9, 1e-4


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


def test_integral(losses: golden.Arrays) -> None:
    values = losses["integral.in"].clone().requires_grad_()
    expected = Integral(values.shape[1] // 4 - 1)(values)
    golden.assert_near(expected, losses["integral.out"], FLOAT64, "integral")
    expected.square().sum().backward()
    golden.assert_near(values.grad, losses["integral.grad_of_sum"], FLOAT64, "gradient")


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


def test_distances() -> None:
    stored = golden.with_prefix(golden.read("box_coders"), "dist.")
    boxes = distances_to_boxes(stored["points"] * 8, stored["distances"] * 8)
    golden.assert_near(boxes, stored["decoded"], FLOAT64, "decoded")


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


CASES = [(kind, letter) for kind in ("atss", "gfl") for letter in ("a", "b")]
LOSSES = {
    "atss": {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_ctr": "loss_centerness"},
    "gfl": {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_dfl": "loss_dfl"},
}


@pytest.mark.parametrize(("kind", "letter"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_predictions(kind: str, letter: str, dtype: torch.dtype, tolerance: float) -> None:
    case = golden.read(f"{kind}_{letter}")
    features = [feature.to(dtype) for feature in golden.numbered(case, "in.feat")]
    model = golden.build(kind, features, dtype).eval()
    outputs = dict(
        zip(("cls_score", "bbox_pred", "centerness"), model.head(features), strict=False)
    )
    if kind == "gfl":
        outputs["distance"] = [
            model.head.integral(level.permute(0, 2, 3, 1)) for level in outputs["bbox_pred"]
        ]
    stored = golden.with_prefix(case, "out.")
    assert len(stored) >= 2 * len(features)
    for name, expected in stored.items():
        actual = outputs[name[:-1]][int(name[-1])]
        golden.assert_near(actual, expected, tolerance, name)


@pytest.mark.parametrize(("kind", "letter"), CASES)
def test_targets(kind: str, letter: str) -> None:
    case = golden.read(f"{kind}_{letter}")
    features = golden.numbered(case, "in.feat")
    model = golden.build(kind, features, torch.float64)
    anchors = model.make_anchors(features)
    assert [len(level) for level in anchors] == case["tgt.num_level_anchors"].tolist()
    assert torch.equal(torch.cat(anchors), case["tgt.anchors"])
    sizes = golden.images(case).image_sizes
    labels, boxes = model.label_anchors(anchors, sizes, golden.instances(case))
    used = case["tgt.label_weights"] > 0
    assert torch.equal(labels >= 0, used)
    assert torch.equal(labels[used], case["tgt.labels"][used])
    positive = ((labels >= 0) & (labels < model.num_classes)).nonzero()
    assert torch.equal(positive, case["tgt.pos_index"])
    assert torch.equal(boxes[tuple(positive.T)], case["tgt.pos_bbox_targets"])


def train(kind: str, case: golden.Arrays, dtype: torch.dtype, *, empty: bool = False) -> tuple:
    """The losses, and the gradients of their sum under the names of the file."""
    features = [f.to(dtype).requires_grad_() for f in golden.numbered(case, "in.feat")]
    model = golden.build(kind, features, dtype)
    ground_truth = golden.instances(case, empty=empty)
    predictions = model.head(features)
    losses = model.forward_training(golden.images(case), features, predictions, ground_truth)
    sum(losses.values()).backward()
    names = golden.convert_head(golden.read(f"{kind}_params")).names
    gradients = {
        f"param.{theirs.removeprefix('bbox_head.')}": model.get_parameter(ours).grad
        for theirs, ours in names.items()
        if "integral" not in theirs
    }
    gradients |= {f"feat{i}": feature.grad for i, feature in enumerate(features)}
    scales = [gradients[f"param.scales.{i}.scale"] for i in range(len(features))]
    return losses, gradients | {"param.scales": torch.stack(scales)}


@pytest.mark.parametrize(
    ("kind", "letter", "empty"),
    [(*case, False) for case in CASES] + [(k, "b", True) for k in LOSSES],
)
def test_losses_and_gradients(kind: str, letter: str, empty: bool) -> None:
    case = golden.read(f"{kind}_{letter}")
    losses, gradients = train(kind, case, torch.float64, empty=empty)
    stored = golden.with_prefix(case, "empty.") if empty else case
    assert set(losses) == set(LOSSES[kind])
    for ours, theirs in LOSSES[kind].items():
        expected = stored[f"loss.{theirs}"].sum()
        golden.assert_near(losses[ours], expected, FLOAT64, theirs)
    golden.assert_near(sum(losses.values()), stored["loss.total"], FLOAT64, "total")
    expected = golden.with_prefix(stored, "grad.")
    assert expected
    for name, value in expected.items():
        golden.assert_near(gradients[name], value, FLOAT64, name)


@pytest.mark.parametrize(("kind", "letter"), CASES)
def test_losses_in_float32(kind: str, letter: str) -> None:
    case = golden.read(f"{kind}_{letter}")
    losses, _ = train(kind, case, torch.float32)
    golden.assert_near(sum(losses.values()), case["loss.total"], FLOAT32, "total")


def assert_same_detections(actual: tuple, case: golden.Arrays, name: str, tolerance: float) -> None:
    """Compare detections paired by label and box."""
    image, prefix = name[-1], name[:-1]
    labels, boxes = case[f"{prefix}.labels{image}"], case[f"{prefix}.boxes{image}"]
    assert len(actual[0]) == len(boxes)
    distances = torch.cdist(boxes, actual[0].to(boxes.dtype))
    distances[labels[:, None] != actual[2]] = torch.inf
    pairs = distances.argmin(1)
    assert len(set(pairs.tolist())) == len(boxes)
    assert torch.equal(actual[2][pairs], labels)
    golden.assert_near(actual[0][pairs], boxes, tolerance, f"{name} boxes")
    expected = case[f"{prefix}.scores{image}"]
    golden.assert_near(actual[1][pairs], expected, tolerance, f"{name} scores")


@pytest.mark.parametrize(("kind", "letter"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("setting", ["test", "test_small", "test_rescaled"])
def test_detections(
    kind: str, letter: str, dtype: torch.dtype, tolerance: float, setting: str
) -> None:
    case = golden.read(f"{kind}_{letter}")
    features = [feature.to(dtype) for feature in golden.numbered(case, "in.feat")]
    limits = {"test_topk_candidates": 25, "max_detections_per_image": 15}
    model = golden.build(
        kind, features, dtype, **(limits if setting == "test_small" else {})
    ).eval()
    with torch.no_grad():
        predictions = model.head(features)
        found = model.detect(golden.images(case).image_sizes, features, predictions)
    for i, (boxes, scores, labels) in enumerate(found):
        if setting == "test_rescaled":
            boxes = boxes / case["in.scale_factor"][i].repeat(2).to(dtype)
        assert_same_detections((boxes, scores, labels), case, f"{setting}{i}", tolerance)


class Maps(Backbone):
    """Stands for a backbone whose outputs are known."""

    def __init__(self, maps: list[Tensor], first_stage: int) -> None:
        super().__init__()
        self.maps = {f"res{first_stage + i}": value for i, value in enumerate(maps)}

    def forward(self, images: Tensor) -> golden.Arrays:
        return self.maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=value.shape[1], stride=2 ** int(name[3:]))
            for name, value in self.maps.items()
        }


def test_pyramid_from_stride_8() -> None:
    stored = golden.with_prefix(golden.read("necks"), "fpn_retina.")
    parameters = golden.with_prefix(stored, "param.")
    maps = golden.numbered(stored, "in")[1:]
    channels = len(parameters["fpn_convs.0.conv.bias"])
    pyramid = FPN(
        Maps(maps, first_stage=3),
        ["res3", "res4", "res5"],
        channels,
        top_block=LastLevelStridedConvs(channels, channels),
    ).double()
    names = {f"neck.{name}": value for name, value in parameters.items()}
    names |= {"bbox_head.atss_cls.bias": torch.zeros(1)}  # shows which model the pyramid is from
    ours = golden.with_prefix(convert(names).state_dict, "backbone.")
    pyramid.load_state_dict(ours)
    outputs = pyramid(torch.zeros(1))
    assert list(outputs) == ["p3", "p4", "p5", "p6", "p7"]
    for i, actual in enumerate(outputs.values()):
        golden.assert_near(actual, stored[f"out{i}"], FLOAT64, f"out{i}")
