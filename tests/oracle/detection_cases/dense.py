"""ATSS and GFL; their predictions and losses in float32, too."""

import importlib

import pytest
import torch
from case_files import Case, check
from detection_cases.dense_models import build, read_levels
from detection_cases.reader import (
    check_detections,
    check_feature_gradients,
    check_gradients,
    read_images,
    read_sizes,
    read_targets,
    reads,
)
from torch import Tensor

from vit_adapter.detection.dense.detector import AssigningDetector

FILES = "atss_? gfl_?"
LOSSES = {
    "atss": {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_ctr": "loss_centerness"},
    "gfl": {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_dfl": "loss_dfl"},
}
FLOAT32 = 1e-3  # tolerance; group norms of maps with few cells are inexact


@reads(FILES, "out.*")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, FLOAT32)], ids=["64", "32"]
)
def test_dense_predictions(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    features = read_levels(case, dtype)
    head = build(case.kind, features).eval().head
    kinds = ("cls_score", "bbox_pred", "centerness")
    outputs = dict(zip(kinds, head(list(features.values())), strict=False))
    if case.kind == "gfl":
        maps = outputs["bbox_pred"]
        outputs["distance"] = [head.integral(level.permute(0, 2, 3, 1)) for level in maps]
    stored = case.within("out.")
    assert len(stored) >= 2 * len(features)
    for name, expected in stored.items():
        check(outputs[name[:-1]][int(name[-1])], expected, tolerance)


@reads(
    FILES, "tgt.num_level_anchors", "tgt.anchors", "tgt.assigned*", "tgt.label*", "tgt.pos_[ib]*"
)
def test_dense_targets(case: Case) -> None:
    features, expected = read_levels(case, torch.float64), case.within("tgt.")
    model = build(case.kind, features)
    anchors = model.make_anchors(list(features.values()))
    assert [len(level) for level in anchors] == expected["num_level_anchors"].tolist()
    check(torch.cat(anchors), expected["anchors"])
    targets = read_targets(case)
    labels, boxes = model.label_anchors(anchors, read_sizes(case), targets)
    used = expected["label_weights"] > 0
    check(labels >= 0, used)
    check(labels[used], expected["labels"][used])
    positive = ((labels >= 0) & (labels < model.num_classes)).nonzero()
    check(positive, expected["pos_index"])
    check(boxes[tuple(positive.T)], expected["pos_bbox_targets"])
    for i, truths in enumerate(targets):
        assigned = expected[f"assigned_gt_inds{i}"]
        check(labels[i] < 0, assigned == -2)
        check(labels[i] == model.num_classes, assigned == 0)
        owned = assigned > 0
        check(boxes[i][owned], truths.gt_boxes.tensor[assigned[owned] - 1])


def train(
    model: AssigningDetector, case: Case, features: dict[str, Tensor], *, empty: bool = False
) -> dict[str, Tensor]:
    """The losses, whose sum is differentiated."""
    maps = list(features.values())
    losses = model.forward_training(
        read_images(case), maps, model.head(maps), read_targets(case, empty=empty)
    )
    sum(losses.values()).backward()
    return losses


def check_losses(model: AssigningDetector, losses: dict[str, Tensor], expected: Case) -> None:
    """Compare the losses, and the gradients of parameters."""
    names = LOSSES["atss" if "loss.loss_centerness" in expected else "gfl"]
    assert set(losses) == set(names)
    for ours, theirs in names.items():
        check(losses[ours], expected[f"loss.{theirs}"].sum())
    check(sum(losses.values()), expected["loss.total"])
    gradients = dict(expected.within("grad.param."))
    if "scales" in gradients:
        check(torch.stack([scale.grad for scale in model.head.scales]), gradients.pop("scales"))
    check_gradients(model.head, gradients, kind=expected.kind, theirs="bbox_head", ours="head")


@reads(FILES, "loss.*", "grad.*", "tgt.pos_[cqw]*", "tgt.*avg_factor", "tgt.num_total_samples")
def test_dense_training(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    features = read_levels(case, torch.float64)
    model = build(case.kind, features)
    watch_weights(case, model, monkeypatch)
    check_losses(model, train(model, case, features), case)
    check_feature_gradients(features, case.within("grad."))


def watch_weights(case: Case, model: AssigningDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the weights of positives, and by what their losses are divided."""
    module = importlib.import_module(f"vit_adapter.detection.dense.{case.kind}")
    expected = case.within("tgt.")

    def watch(name: str, compare) -> None:
        function = getattr(module, name)

        def watched(*args, **options):
            result = function(*args, **options)
            compare(result, *args)
            return result

        monkeypatch.setattr(module, name, watched)

    def check_quality(_, logits: Tensor, labels: Tensor, quality: Tensor) -> None:
        positive = labels < model.num_classes
        check(quality[positive], expected["pos_quality"])
        check(logits[positive].sigmoid().amax(-1), expected["pos_weight"])

    if case.kind == "gfl":
        watch("quality_focal_loss", check_quality)
        weights = "avg_factor"
    else:
        watch("centerness_targets", lambda result, *_: check(result, expected["pos_centerness"]))
        weights = "bbox_avg_factor"
    divisors = torch.stack([expected["num_total_samples"], expected[weights]])
    watch("loss_divisor", lambda result, *_: check(result, divisors))


@reads("atss_b gfl_b", "empty.*")
def test_dense_training_without_ground_truth(case: Case) -> None:
    features = read_levels(case, torch.float64)
    model = build(case.kind, features)
    check_losses(model, train(model, case, features, empty=True), case.within("empty."))


@reads(FILES, "loss.total")
def test_dense_losses_in_float32(case: Case) -> None:
    features = read_levels(case, torch.float32)
    losses = train(build(case.kind, features), case, features)
    check(sum(losses.values()), case["loss.total"], FLOAT32)


@reads(FILES, "test*")
def test_dense_detections(case: Case) -> None:
    features = read_levels(case, torch.float64)
    maps = list(features.values())
    limits = {"test_topk_candidates": 25, "max_detections_per_image": 15}
    for setting, changes in {"test": {}, "test_small": limits}.items():
        model = build(case.kind, features, **changes).eval()
        with torch.no_grad():
            found = model.detect(read_sizes(case), maps, model.head(maps))
        for i, (boxes, *rest) in enumerate(found):
            check_detections((boxes, *rest), case.within(f"{setting}."), i)
            if setting == "test":
                boxes = boxes / case["in.scale_factor"][i].repeat(2)
                check_detections((boxes, *rest), case.within("test_rescaled."), i)
