"""The heads of Cascade Mask R-CNN, and what they share with the hybrid task cascade."""

import pytest
import torch
from case_files import Arrays, Case, check
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
    check_buffers,
    check_regions,
    check_results,
    check_sampled,
    set_widths,
    watch_masks,
    watch_predictions,
    with_image,
)
from detectron2.config import instantiate
from detectron2.structures import Instances
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.layers.sync_norm import adapt_sync_batch_norm


def build_stages(config: DictConfig, parameters: Arrays) -> nn.Module:
    """The heads of a config, with the sizes and values of the parameters."""
    config.num_classes = len(parameters["bbox_head.0.fc_cls.bias"]) - 1
    heads = zip(config.box_heads, config.mask_heads, strict=True)
    for stage, (box_head, mask_head) in enumerate(heads):
        set_widths(box_head, mask_head, parameters, f".{stage}")
    built = adapt_sync_batch_norm(instantiate(config))
    load_parameters(built, parameters, theirs="roi_head", ours="roi_heads")
    return built


def build_cascade() -> nn.Module:
    parameters = FILES.read("cascade_params")
    model = model_zoo.get_config("common/models/cascade_mask_rcnn").model
    model.backbone.out_channels = parameters["mask_head.0.convs.0.conv.weight"].shape[1]
    return build_stages(model.roi_heads, parameters)


def watch_stages(heads: nn.Module, case: Case) -> None:
    """Compare what the stages predict, and what their masks learn in training."""
    for stage, predictor in enumerate(heads.box_predictor):
        expected = case.within(f"s{stage}." if heads.training else f"test.s{stage}.")
        watch_predictions(predictor, expected)
        if heads.training:
            watch_masks(heads.mask_head[stage], expected.within("mask."))


def check_training(heads: nn.Module, case: Case, features: Arrays, losses: Arrays) -> None:
    """Compare the losses of all stages, and the gradients of the sum of all losses."""
    for stage in range(len(heads.box_head)):
        for ours, theirs in LOSSES.items():
            check(losses[f"{ours}_stage{stage}"], case[f"s{stage}.{theirs}"])
    total = sum(losses.values())
    check(total, case["loss.total"])
    total.backward()
    gradients = case.within("grad.")
    check_gradients(
        heads, gradients.within("param."), kind=case.kind, theirs="roi_head", ours="roi_heads"
    )
    check_feature_gradients(features, gradients)
    if any(isinstance(module, nn.BatchNorm2d) for module in heads.modules()):
        check_buffers(heads, case.within("after_step."))


def watch_inference(heads: nn.Module, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the regions of later stages, and the mean of the logits."""
    watch_stages(heads, case)
    predict, inference = heads._predict, heads.box_predictor[-1].inference

    def check_boxes(stage: int, features: Arrays, regions: list[Instances]):
        if stage:
            check(with_image(regions), case[f"test.s{stage}.rois"])
        return predict(stage, features, regions)

    def check_mean(predictions: tuple[Tensor, Tensor], regions: list[Instances]):
        check(predictions[0], case["test.mean_cls_score"])
        return inference(predictions, regions)

    monkeypatch.setattr(heads, "_predict", check_boxes)
    monkeypatch.setattr(heads.box_predictor[-1], "inference", check_mean)


@reads("cascade_?", "[!t]*")
@pytest.mark.usefixtures("storage")
def test_cascade_training(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = build_cascade()
    sample = heads._sample

    def check_sample(stage: int, proposals: list[Instances], targets: list[Instances]):
        regions, expected = sample(stage, proposals, targets), case.within(f"s{stage}.")
        assigner = heads.assigners[stage]
        for i, sampled in enumerate(regions):
            boxes = sampled.proposal_boxes.tensor
            check_sampled(expected, proposals[i], targets[i], i, assigner=assigner, boxes=boxes)
        check_regions(expected, regions, heads.box_predictor[stage])
        return regions

    monkeypatch.setattr(heads, "_sample", check_sample)
    watch_stages(heads, case)
    features, proposals = read_features(case), read_proposals(case, "in.proposals")
    _, losses = heads(read_images(case), features, proposals, read_targets(case))
    assert len(losses) == len(LOSSES) * len(heads.box_head)
    check_training(heads, case, features, losses)


@reads("cascade_?", "test*")
def test_cascade_inference(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = build_cascade().eval()
    watch_inference(heads, case, monkeypatch)
    inputs = read_images(case), read_features(case), read_proposals(case, "in.test_proposals")
    with torch.no_grad():
        detections, _ = heads(*inputs)
        heads.box_predictor[-1].test_topk_per_image = 5
        best, _ = heads(*inputs)
    for i, (found, first) in enumerate(zip(detections, best, strict=True)):
        check_results(case, i, found)
        check_best(case, i, first)
