"""The proposal network, as Mask R-CNN and as the cascades train it."""

import pytest
import torch
from case_files import Case, check
from detection_cases.reader import (
    FILES,
    check_feature_gradients,
    check_gradients,
    load_parameters,
    read_features,
    read_images,
    read_targets,
    reads,
)
from detectron2.config import instantiate
from detectron2.structures import Boxes
from torch import Tensor, nn

from vit_adapter import model_zoo

MODELS = {"maskrcnn": "mask_rcnn", "cascade": "cascade_mask_rcnn"}


def build_rpn(flavour: str) -> nn.Module:
    parameters = FILES.read("rpn_params")
    model = model_zoo.get_config(f"common/models/{MODELS[flavour]}").model
    model.backbone.out_channels = parameters["rpn_conv.weight"].shape[1]
    config = model.proposal_generator
    rpn = instantiate(config)
    generator = rpn.anchor_generator
    for i, sizes in enumerate(config.anchor_generator.sizes):  # rounded to float32
        anchors = generator.generate_cell_anchors(sizes, config.anchor_generator.aspect_ratios)
        generator.cell_anchors.register_buffer(str(i), anchors, persistent=False)
    load_parameters(rpn, parameters, theirs="rpn_head", ours="proposal_generator")
    return rpn


@reads("rpn", "out.*")
def test_rpn_predictions(case: Case) -> None:
    """Of the finest level, only the first row is stored."""
    features = list(read_features(case).values())
    predictions = build_rpn("maskrcnn").rpn_head(features)
    for name, levels in zip(("cls_score", "bbox_pred"), predictions, strict=True):
        check(levels[0][:, :, 0], case[f"out.{name}0_row0"])
        for i, level in enumerate(levels[1:], start=1):
            check(level, case[f"out.{name}{i}"])


@reads("rpn", "tgt.*", "*.assigned_gt_inds?", "*.pos_*")
def test_rpn_assigns_anchors(case: Case) -> None:
    for flavour in MODELS:
        rpn = build_rpn(flavour)
        anchors = rpn.anchor_generator(list(read_features(case).values()))
        check(anchors[-1].tensor, case["tgt.anchors_level4"])
        ratios = rpn.anchor_generator.num_anchors[0]
        at_origin = torch.stack([level.tensor[:ratios] for level in anchors])
        check(at_origin, case["tgt.base_anchors"])
        assert [len(level) for level in anchors] == case["tgt.num_level_anchors"].tolist()
        rpn.batch_size_per_image = 2 * sum(map(len, anchors))  # all
        check_assigned(case.within(f"{flavour}."), rpn, anchors, read_targets(case))


def check_assigned(expected: Case, rpn: nn.Module, anchors: list[Boxes], targets: list) -> None:
    labels, boxes = rpn.label_and_sample_anchors(anchors, targets)
    for i, truths in enumerate(targets):
        assigned = expected[f"assigned_gt_inds{i}"]
        check(labels[i], assigned.clamp(-1, 1))
        positive = assigned > 0
        check(positive.nonzero()[:, 0], expected[f"pos_anchors{i}"])
        check(boxes[i][positive], truths.gt_boxes.tensor[assigned[positive] - 1])
        encoded = rpn.box2box_transform.get_deltas(
            Boxes.cat(anchors).tensor[positive], boxes[i][positive]
        )
        check(encoded, expected[f"pos_bbox_targets{i}"])


@reads("rpn", "*.all.*", "*.sampled.*")
@pytest.mark.usefixtures("storage")
def test_rpn_losses(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all anchors, and of stored ones: all positives and some negatives."""
    for flavour in MODELS:
        for sample in ("all", "sampled"):
            expected = case.within(f"{flavour}.{sample}.")
            rpn = build_rpn(flavour)
            negatives = iter(expected.numbered("neg_anchors"))
            counts = []

            def choose(labels: Tensor, sample=sample, negatives=negatives, counts=counts) -> Tensor:
                if sample == "sampled":
                    chosen = next(negatives)
                    assert (labels[chosen] == 0).all()
                    labels = torch.where(labels > 0, labels, -1)
                    labels[chosen] = 0
                counts.extend([(labels == 0).sum(), (labels == 1).sum()])
                return labels

            monkeypatch.setattr(rpn, "_subsample_labels", choose)
            check_losses(case, expected, rpn)
            total = torch.stack(counts).clamp(min=1).sum()
            check(total.double(), expected["num_total_samples"])


def check_losses(case: Case, expected: Case, rpn: nn.Module) -> None:
    features = read_features(case)
    _, losses = rpn(read_images(case), features, read_targets(case))
    check(losses["loss_rpn_cls"], expected["loss_rpn_cls"].sum())
    check(losses["loss_rpn_loc"], expected["loss_rpn_bbox"].sum())
    total = sum(losses.values())
    check(total, expected["total"])
    total.backward()
    gradients = expected.within("grad.")
    check_gradients(
        rpn,
        gradients.within("param."),
        kind=case.kind,
        theirs="rpn_head",
        ours="proposal_generator",
    )
    check_feature_gradients(features, gradients)


@reads("rpn", "empty.*")
@pytest.mark.usefixtures("storage")
def test_rpn_losses_without_ground_truth(case: Case) -> None:
    rpn = build_rpn("maskrcnn")
    rpn._subsample_labels = lambda labels: labels
    _, losses = rpn(read_images(case), read_features(case), read_targets(case, empty=True))
    check(losses["loss_rpn_cls"], case["empty.loss_rpn_cls"].sum())
    check(losses["loss_rpn_loc"], case["empty.loss_rpn_bbox"].sum())


@reads("rpn", "proposals.*")
@pytest.mark.usefixtures("storage")
def test_rpn_proposals(case: Case) -> None:
    for kind in ("test", "train_maskrcnn", "small"):
        rpn, expected = build_rpn("maskrcnn"), case.within(f"proposals.{kind}.")
        rpn.train(kind == "train_maskrcnn")
        if kind == "small":
            rpn.pre_nms_topk, rpn.post_nms_topk = {False: 60}, {False: 40}
        proposals, _ = rpn(read_images(case), read_features(case), read_targets(case))
        check(torch.tensor([len(image) for image in proposals]), expected["count"])
        for i, image in enumerate(proposals):
            best = expected[f"boxes_scores{i}"]
            scores = image.objectness_logits.sigmoid()[:, None]
            computed = torch.cat([image.proposal_boxes.tensor, scores], dim=1)
            check(computed[: len(best)], best)
