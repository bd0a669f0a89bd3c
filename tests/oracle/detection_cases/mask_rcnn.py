"""The heads of Mask R-CNN."""

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
    read_proposals,
    read_targets,
    reads,
)
from detection_cases.roi_heads import (
    LOSSES,
    check_best,
    check_regions,
    check_results,
    check_sampled,
    set_widths,
    watch_masks,
    watch_predictions,
)
from detectron2.config import instantiate
from torch import nn

from vit_adapter import model_zoo


def build_mask_rcnn() -> nn.Module:
    parameters = FILES.read("maskrcnn_params")
    model = model_zoo.get_config("common/models/mask_rcnn").model
    model.backbone.out_channels = parameters["mask_head.convs.0.conv.weight"].shape[1]
    config = model.roi_heads
    config.num_classes = len(parameters["bbox_head.fc_cls.bias"]) - 1
    set_widths(config.box_head, config.mask_head, parameters, "")
    heads = instantiate(config)
    load_parameters(heads, parameters, theirs="roi_head", ours="roi_heads")
    return heads


@reads("maskrcnn_?", "[!t]*")
@pytest.mark.usefixtures("storage")
def test_mask_rcnn_training(case: Case) -> None:
    heads = build_mask_rcnn()
    watch_predictions(heads.box_predictor, case)
    watch_masks(heads.mask_head, case.within("mask."))
    features, targets = read_features(case), read_targets(case)
    proposals = read_proposals(case, "in.proposals")
    regions, losses = heads(read_images(case), features, proposals, targets)
    for i, sampled in enumerate(regions):
        boxes = sampled.proposal_boxes.tensor
        assigner = heads.proposal_matcher
        check_sampled(case, proposals[i], targets[i], i, assigner=assigner, boxes=boxes)
    check_regions(case, regions, heads.box_predictor)
    assert set(losses) == set(LOSSES)
    for ours, theirs in LOSSES.items():
        check(losses[ours], case[theirs])
    total = sum(losses.values())
    check(total, case["loss.total"])
    total.backward()
    gradients = case.within("grad.")
    check_gradients(
        heads, gradients.within("param."), kind=case.kind, theirs="roi_head", ours="roi_heads"
    )
    check_feature_gradients(features, gradients)


@reads("maskrcnn_?", "test*")
def test_mask_rcnn_inference(case: Case) -> None:
    heads = build_mask_rcnn().eval()
    watch_predictions(heads.box_predictor, case.within("test."))
    inputs = read_images(case), read_features(case), read_proposals(case, "in.test_proposals")
    with torch.no_grad():
        detections, _ = heads(*inputs)
        heads.box_predictor.test_topk_per_image = 5
        best, _ = heads(*inputs)
    for i, (found, first) in enumerate(zip(detections, best, strict=True)):
        check_results(case, i, found)
        check_best(case, i, first)
