"""The proposal network, as Mask R-CNN and as the cascades train it."""

import pytest
import torch
from detection_cases.reader import (
    cascade_config,
    check,
    check_gradients,
    load_parameters,
    read,
    read_features,
    read_images,
    read_targets,
)
from detectron2.config import instantiate
from detectron2.structures import Boxes
from torch import Tensor, nn


@pytest.fixture(params=["maskrcnn", "cascade"])
def flavour(request: pytest.FixtureRequest) -> str:
    return request.param


def build_rpn(flavour: str) -> nn.Module:
    parameters = read("rpn_params")
    config = cascade_config(parameters["rpn_conv.weight"].shape[1]).proposal_generator
    if flavour == "maskrcnn":
        config.anchor_boundary_thresh, config.smooth_l1_beta = -1.0, 0.0
        config.post_nms_topk = [1000, 1000]
    rpn = instantiate(config)
    generator = rpn.anchor_generator
    for i, sizes in enumerate(config.anchor_generator.sizes):  # rounded to float32
        anchors = generator.generate_cell_anchors(sizes, config.anchor_generator.aspect_ratios)
        generator.cell_anchors.register_buffer(str(i), anchors, persistent=False)
    load_parameters(rpn, parameters, theirs="rpn_head", ours="proposal_generator")
    return rpn


def test_rpn_assigns_anchors(flavour: str) -> None:
    case, rpn = read("rpn"), build_rpn(flavour)
    anchors = rpn.anchor_generator(list(read_features(case).values()))
    check(anchors[-1].tensor, case["tgt.anchors_level4"])
    assert [len(level) for level in anchors] == case["tgt.num_level_anchors"].tolist()
    rpn.batch_size_per_image = 2 * sum(map(len, anchors))  # all
    targets = read_targets(case)
    labels, boxes = rpn.label_and_sample_anchors(anchors, targets)
    for i, truths in enumerate(targets):
        expected = case[f"{flavour}.assigned_gt_inds{i}"]
        check(labels[i], expected.clamp(-1, 1))
        positive = expected > 0
        check(positive.nonzero()[:, 0], case[f"{flavour}.pos_anchors{i}"])
        check(boxes[i][positive], truths.gt_boxes.tensor[expected[positive] - 1])
        encoded = rpn.box2box_transform.get_deltas(
            Boxes.cat(anchors).tensor[positive], boxes[i][positive]
        )
        check(encoded, case[f"{flavour}.pos_bbox_targets{i}"])


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize("sample", ["all", "sampled"])
def test_rpn_losses(flavour: str, sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, rpn = read("rpn"), build_rpn(flavour)
    images = iter(range(len(case["in.img_shape"])))

    def choose(labels: Tensor) -> Tensor:
        """The stored negatives, and all positives."""
        i = next(images)
        if sample == "sampled":
            negatives = case[f"{flavour}.sampled.neg_anchors{i}"]
            assert (labels[negatives] == 0).all()
            labels = torch.where(labels > 0, labels, -1)
            labels[negatives] = 0
        return labels

    monkeypatch.setattr(rpn, "_subsample_labels", choose)
    features = read_features(case)
    _, losses = rpn(read_images(case), features, read_targets(case))
    prefix = f"{flavour}.{sample}."
    check(losses["loss_rpn_cls"], case[f"{prefix}loss_rpn_cls"].sum())
    check(losses["loss_rpn_loc"], case[f"{prefix}loss_rpn_bbox"].sum())
    total = sum(losses.values())
    check(total, case[f"{prefix}total"])
    total.backward()
    check_gradients(rpn, case, prefix, theirs="rpn_head", ours="proposal_generator")
    for i, feature in enumerate(features.values()):
        if f"{prefix}grad.feat{i}" in case:
            check(feature.grad, case[f"{prefix}grad.feat{i}"])


@pytest.mark.usefixtures("storage")
def test_rpn_losses_without_ground_truth() -> None:
    case, rpn = read("rpn"), build_rpn("maskrcnn")
    rpn._subsample_labels = lambda labels: labels
    for i in range(len(case["in.img_shape"])):
        case[f"in.gt_bboxes{i}"] = case[f"in.gt_bboxes{i}"][:0]
        case[f"in.gt_labels{i}"] = case[f"in.gt_labels{i}"][:0]
    _, losses = rpn(read_images(case), read_features(case), read_targets(case))
    check(losses["loss_rpn_cls"], case["empty.loss_rpn_cls"].sum())
    check(losses["loss_rpn_loc"], case["empty.loss_rpn_bbox"].sum())


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize("kind", ["test", "train_maskrcnn", "small"])
def test_rpn_proposals(kind: str) -> None:
    case, rpn = read("rpn"), build_rpn("maskrcnn")
    rpn.train(kind == "train_maskrcnn")
    if kind == "small":
        rpn.pre_nms_topk, rpn.post_nms_topk = {False: 60}, {False: 40}
    proposals, _ = rpn(read_images(case), read_features(case), read_targets(case))
    check(torch.tensor([len(image) for image in proposals]), case[f"proposals.{kind}.count"])
    for i, image in enumerate(proposals):
        expected = case[f"proposals.{kind}.boxes_scores{i}"]
        scores = image.objectness_logits.sigmoid()[:, None]
        computed = torch.cat([image.proposal_boxes.tensor, scores], dim=1)
        check(computed[: len(expected)], expected)
