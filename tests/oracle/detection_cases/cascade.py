"""The heads of Cascade Mask R-CNN."""

import numpy as np
import pytest
import torch
from detection_cases.reader import (
    Arrays,
    cascade_config,
    check,
    check_gradients,
    load_parameters,
    read,
    read_features,
    read_images,
    read_proposals,
    read_targets,
)
from detectron2.config import instantiate
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from vit_adapter.checkpoint.original import convert_state_dict
from vit_adapter.layers.sync_norm import adapt_sync_batch_norm


def build_cascade() -> nn.Module:
    parameters = read("cascade_params")
    convs = [f"bbox_head.0.shared_convs.{i}.conv.weight" for i in range(4)]
    masks = [f"mask_head.0.convs.{i}.conv.weight" for i in range(4)]
    model = cascade_config(parameters[convs[0]].shape[1])
    config = model.roi_heads
    config.num_classes = len(parameters["bbox_head.0.fc_cls.bias"]) - 1
    for box_head, mask_head in zip(config.box_heads, config.mask_heads, strict=True):
        box_head.conv_dims = [len(parameters[name]) for name in convs]
        box_head.fc_dims = [len(parameters["bbox_head.0.shared_fcs.0.bias"])]
        upsampled = parameters["mask_head.0.upsample.weight"].shape[1]
        mask_head.conv_dims = [*(len(parameters[name]) for name in masks), upsampled]
    heads = adapt_sync_batch_norm(instantiate(config))
    load_parameters(heads, parameters, theirs="roi_head", ours="roi_heads")
    return heads


@pytest.fixture(params=["cascade_a", "cascade_b"])
def cascade(request: pytest.FixtureRequest) -> tuple[nn.Module, Arrays]:
    return build_cascade(), read(request.param)


@pytest.mark.usefixtures("storage")
def test_cascade_training(
    cascade: tuple[nn.Module, Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, case = cascade
    sample, predict = heads._sample, heads._predict

    def check_regions(stage: int, proposals: list[Instances], targets: list[Instances]):
        regions = sample(stage, proposals, targets)
        check_regions_of(case, f"s{stage}", proposals, regions)
        foreground = [image.gt_classes < heads.num_classes for image in regions]
        boxes = [image.gt_boxes.tensor[f] for image, f in zip(regions, foreground, strict=True)]
        check(torch.cat(boxes), case[f"s{stage}.bbox_targets"][torch.cat(foreground)])
        return regions

    def check_predictions(stage: int, features: Arrays, regions: list[Instances]):
        scores, deltas = predict(stage, features, regions)
        check(scores, case[f"s{stage}.cls_score"])
        check(deltas, case[f"s{stage}.bbox_pred"])
        return scores, deltas

    monkeypatch.setattr(heads, "_sample", check_regions)
    monkeypatch.setattr(heads, "_predict", check_predictions)
    features = read_features(case)
    proposals = read_proposals(case, "in.proposals")
    _, losses = heads(read_images(case), features, proposals, read_targets(case))
    names = {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_mask": "loss_mask"}
    assert len(losses) == 9
    for stage in range(3):
        for ours, theirs in names.items():
            check(losses[f"{ours}_stage{stage}"], case[f"s{stage}.{theirs}"])
    total = sum(losses.values())
    check(total, case["loss.total"])
    total.backward()
    check_gradients(heads, case, "", theirs="roi_head", ours="roi_heads")
    for i, feature in enumerate(features.values()):
        if f"grad.feat{i}" in case:
            gradient = torch.zeros_like(feature) if feature.grad is None else feature.grad
            check(gradient, case[f"grad.feat{i}"])
    check_buffers(heads, case)


def check_regions_of(
    case: Arrays, stage: str, proposals: list[Instances], regions: list[Instances]
) -> None:
    """What a stage is given, and what it samples."""
    for i, (given, sampled) in enumerate(zip(proposals, regions, strict=True)):
        if f"{stage}.proposals{i}" in case:
            check(given.proposal_boxes.tensor, case[f"{stage}.proposals{i}"])
        count = len(case[f"{stage}.pos_inds{i}"])
        check(sampled.gt_index[:count], case[f"{stage}.pos_assigned_gt{i}"])
        truths = len(case[f"in.gt_bboxes{i}"])
        indices = torch.cat([case[f"{stage}.pos_inds{i}"], case[f"{stage}.neg_inds{i}"]])
        check(sampled.is_gt, indices < truths)
    rois = case[f"{stage}.rois"]
    check(torch.cat([image.proposal_boxes.tensor for image in regions]), rois[:, 1:])
    labels = torch.cat([image.gt_classes for image in regions])
    check(labels, case[f"{stage}.labels"])


def check_buffers(heads: nn.Module, case: Arrays) -> None:
    """The statistics of the batch norms after one training step."""
    start = "after_step."
    stored = {f"roi_head.{k.removeprefix(start)}": v for k, v in case.items() if start in k}
    assert stored
    buffers = dict(heads.named_buffers())
    for name, value in convert_state_dict(stored).items():
        check(buffers[name.removeprefix("roi_heads.")], value)


def test_cascade_inference(
    cascade: tuple[nn.Module, Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, case = cascade[0].eval(), cascade[1]
    predict, inference = heads._predict, heads.box_predictor[-1].inference

    def check_stage(stage: int, features: Arrays, regions: list[Instances]):
        scores, deltas = predict(stage, features, regions)
        if stage:
            boxes = torch.cat([image.proposal_boxes.tensor for image in regions])
            check(boxes, case[f"test.s{stage}.rois"][:, 1:])
        check(scores, case[f"test.s{stage}.cls_score"])
        check(deltas, case[f"test.s{stage}.bbox_pred"])
        return scores, deltas

    def check_mean(predictions: tuple[Tensor, Tensor], regions: list[Instances]):
        check(predictions[0], case["test.mean_cls_score"])
        return inference(predictions, regions)

    monkeypatch.setattr(heads, "_predict", check_stage)
    monkeypatch.setattr(heads.box_predictor[-1], "inference", check_mean)
    with torch.no_grad():
        detections, _ = heads(
            read_images(case), read_features(case), read_proposals(case, "in.test_proposals")
        )
    for i, found in enumerate(detections):
        check_detections(case, i, found)
    heads.box_predictor[-1].test_topk_per_image = 5
    with torch.no_grad():
        best, _ = heads(
            read_images(case), read_features(case), read_proposals(case, "in.test_proposals")
        )
    for i, found in enumerate(best):
        scores = found.scores[:, None]
        computed = torch.cat([found.pred_boxes.tensor, scores], dim=1)
        check(computed, case[f"test_max5.boxes_scores{i}"])


def check_detections(case: Arrays, i: int, found: Instances) -> None:
    """Detections of image ``i``, in the input and in the original image."""
    check(found.pred_boxes.tensor, case[f"test.boxes{i}"])
    check(found.scores, case[f"test.scores{i}"])
    check(found.pred_classes, case[f"test.labels{i}"])
    masks = case[f"test.masks{i}"]
    check(found.pred_masks[: len(masks), 0], masks)
    scale = case["in.scale_factor"][i].repeat(2)
    boxes = found.pred_boxes.tensor / scale
    check(boxes, case[f"test_rescaled.boxes{i}"])
    check(found.scores, case[f"test_rescaled.scores{i}"])
    size = tuple(case["in.ori_shape"][i].tolist())
    pasted = paste_masks_in_image(masks, Boxes(boxes[: len(masks)]), size, threshold=0.5)
    expected = np.unpackbits(case[f"test_rescaled.pasted{i}"].numpy(), axis=-1, count=size[1])
    different = pasted != torch.from_numpy(expected).bool()
    assert different.sum() <= 2  # pixels at 0.5 up to rounding
