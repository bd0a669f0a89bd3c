"""The heads of the hybrid task cascade."""

import sys

import pytest
import torch
from case_files import Arrays, Case, check
from detection_cases.cascade import build_stages, check_training, watch_inference, watch_stages
from detection_cases.reader import (
    FILES,
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
)
from detectron2.structures import Instances
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.detection import GIoUBoxPredictor
from vit_adapter.test_time.suppression import Suppression


def build_htc(parameters: Arrays, *, is_fine_tuned: bool) -> nn.Module:
    """The heads for one set of parameters; the fine-tuned ones have other box heads."""
    model = model_zoo.get_config("common/models/htc").model
    model.backbone.out_channels = parameters["mask_head.0.convs.0.conv.weight"].shape[1]
    config = model.roi_heads
    config.semantic_head.num_classes = len(parameters["semantic_head.conv_logits.bias"])
    if is_fine_tuned:
        for box_head, predictor in zip(config.box_heads, config.box_predictors, strict=True):
            box_head.conv_norm = "SyncBN"
            predictor._target_ = GIoUBoxPredictor
            predictor.loss_weight = dict(loss_box_reg=10.0)
    return build_stages(config, parameters)


def build(case: Case) -> nn.Module:
    return build_htc(FILES.read(f"{case.kind}_params"), is_fine_tuned=case.kind == "htco365")


@reads("htc*_[a-z]", "[!t]*")
@pytest.mark.usefixtures("storage")
def test_htc_training(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = build(case)
    sample, drawn = heads._sample, []

    def check_sample(stage: int, proposals: list[Instances], targets: list[Instances]):
        regions, expected = sample(stage, proposals, targets), case.within(f"s{stage}.")
        is_for_boxes = len(drawn) == 2 * stage  # then again for the masks
        drawn.append(stage)
        assigner, kinds = heads.assigners[stage], ("pos", "neg")
        if is_for_boxes:
            check_regions(expected, regions, heads.box_predictor[stage])
        else:
            expected, kinds = expected.within("mask."), ("pos",)
        for i, sampled in enumerate(regions):
            if not is_for_boxes:
                sampled = sampled[sampled.gt_classes < heads.num_classes]
            boxes, image = sampled.proposal_boxes.tensor, (proposals[i], targets[i], i)
            check_sampled(expected, *image, assigner=assigner, boxes=boxes, kinds=kinds)
        return regions

    monkeypatch.setattr(heads, "_sample", check_sample)
    watch_stages(heads, case)
    watch_semantics(heads.semantic_head, case.within("semantic."))
    features, proposals = read_features(case), read_proposals(case, "in.proposals")
    labels = case["in.gt_semantic_seg"][:, 0]
    _, losses = heads(read_images(case), features, proposals, read_targets(case), labels)
    assert drawn == [0, 0, 1, 1, 2, 2]
    assert len(losses) == len(LOSSES) * len(heads.box_head) + 1
    check(losses["loss_sem_seg"], case["loss.semantic_seg"])
    check_training(heads, case, features, losses)


def watch_semantics(head: nn.Module, expected: Case) -> None:
    def compare(module: nn.Module, inputs: tuple, outputs: tuple[Tensor, Tensor]) -> None:
        check(outputs[0], expected["pred"])
        check(outputs[1], expected["feat"])

    head.register_forward_hook(compare)


@reads("htc*_[a-z]", "test*")
def test_htc_inference(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = build(case).eval()
    watch_inference(heads, case, monkeypatch)
    images, features = read_images(case), read_features(case)
    predictor = heads.box_predictor[-1]
    own_threshold, most = predictor.test_nms_thresh, predictor.test_topk_per_image
    predictor.test_nms_thresh, predictor.test_topk_per_image = 2.0, sys.maxsize  # no NMS
    suppress = Suppression(**model_zoo.get_config("common/detector_testing").htc.nms)
    with torch.no_grad():
        candidates, _ = heads(images, features, read_proposals(case, "in.test_proposals"))
        found = [suppress(image, own_threshold=own_threshold) for image in candidates]
        found = heads.forward_with_given_boxes(features, [image[:most] for image in found])
    for i, image in enumerate(found):
        check_results(case, i, image)
        check_best(case, i, image[:5])
