"""The heads of the hybrid task cascade, and its attention before the pyramid."""

import pytest
import torch
from detection_cases.cascade import check_buffers, check_regions_of
from detection_cases.reader import (
    FOLDER,
    Arrays,
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
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.checkpoint import load_strict
from vit_adapter.checkpoint.original.layouts.htc import EXTRA_ATTENTION
from vit_adapter.checkpoint.original.rules import Renamer
from vit_adapter.detection import GIoUBoxPredictor
from vit_adapter.detection.htc import ExtraAttention
from vit_adapter.layers.sync_norm import adapt_sync_batch_norm

CASES = sorted(file.stem for file in FOLDER.glob("htc*_[ab].npz"))


def build_htc(parameters: Arrays, *, is_fine_tuned: bool) -> nn.Module:
    """The heads for one set of parameters; the fine-tuned ones have other box heads."""
    model = model_zoo.get_config("common/models/htc").model
    config = model.roi_heads
    convs = parameters["mask_head.0.convs.0.conv.weight"]
    model.backbone.out_channels = convs.shape[1]
    config.num_classes = len(parameters["bbox_head.0.fc_cls.bias"]) - 1
    config.semantic_head.num_classes = len(parameters["semantic_head.conv_logits.bias"])
    for stage in range(3):
        config.box_heads[stage].conv_dims = [len(convs)] * 4
        config.box_heads[stage].fc_dims = [len(parameters["bbox_head.0.shared_fcs.0.bias"])]
        config.mask_heads[stage].conv_dims = [len(convs)] * 5
        if is_fine_tuned:
            config.box_heads[stage].conv_norm = "SyncBN"
            predictor = config.box_predictors[stage]
            predictor._target_ = GIoUBoxPredictor
            predictor.loss_weight = dict(loss_box_reg=10.0)
    heads = adapt_sync_batch_norm(instantiate(config))
    load_parameters(heads, parameters, theirs="roi_head", ours="roi_heads")
    return heads


@pytest.fixture(params=CASES)
def htc(request: pytest.FixtureRequest) -> tuple[nn.Module, Arrays]:
    kind = request.param.split("_")[0]
    heads = build_htc(read(f"{kind}_params"), is_fine_tuned=kind == "htco365")
    return heads, read(request.param)


def test_there_are_htc_cases() -> None:
    assert CASES


@pytest.mark.usefixtures("storage")
def test_htc_training(htc: tuple[nn.Module, Arrays], monkeypatch: pytest.MonkeyPatch) -> None:
    heads, case = htc
    sample, predict, mask_losses = heads._sample, heads._predict, heads._mask_losses
    drawn = []

    def check_regions(stage: int, proposals: list[Instances], targets: list[Instances]):
        regions = sample(stage, proposals, targets)
        if len(drawn) == 2 * stage:  # for the boxes; then again for the masks
            check_regions_of(case, f"s{stage}", proposals, regions)
        drawn.append(stage)
        return regions

    def check_predictions(stage: int, features: Arrays, regions: list[Instances]):
        scores, deltas = predict(stage, features, regions)
        check(scores, case[f"s{stage}.cls_score"])
        check(deltas, case[f"s{stage}.bbox_pred"])
        return scores, deltas

    def check_masks(stage: int, features: Arrays, regions: list[Instances], targets):
        labels = torch.cat([image.gt_classes for image in regions])
        check(labels[labels < heads.num_classes], case[f"s{stage}.mask.labels"])
        return mask_losses(stage, features, regions, targets)

    monkeypatch.setattr(heads, "_sample", check_regions)
    monkeypatch.setattr(heads, "_predict", check_predictions)
    monkeypatch.setattr(heads, "_mask_losses", check_masks)
    features = read_features(case)
    proposals = read_proposals(case, "in.proposals")
    labels = case["in.gt_semantic_seg"][:, 0]
    _, losses = heads(read_images(case), features, proposals, read_targets(case), labels)
    assert drawn == [0, 0, 1, 1, 2, 2]
    check(losses["loss_sem_seg"], case["loss.semantic_seg"])
    names = {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox", "loss_mask": "loss_mask"}
    assert len(losses) == 10
    for stage in range(3):
        for ours, theirs in names.items():
            check(losses[f"{ours}_stage{stage}"], case[f"s{stage}.{theirs}"])
    total = sum(losses.values())
    check(total, case["loss.total"])
    total.backward()
    check_gradients(heads, case, "", theirs="roi_head", ours="roi_heads")
    for i, feature in enumerate(features.values()):
        if f"grad.feat{i}" in case:
            check(feature.grad, case[f"grad.feat{i}"])
    if any(name.startswith("after_step.") for name in case):
        check_buffers(heads, case)


def test_htc_inference(htc: tuple[nn.Module, Arrays], monkeypatch: pytest.MonkeyPatch) -> None:
    heads, case = htc[0].eval(), htc[1]
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
    images, features = read_images(case), read_features(case)
    with torch.no_grad():
        heads(images, features, read_proposals(case, "in.test_proposals"))
        found = [
            Instances(
                size,
                pred_boxes=Boxes(case[f"test.boxes{i}"][: len(case[f"test.masks{i}"])]),
                pred_classes=case[f"test.labels{i}"][: len(case[f"test.masks{i}"])],
            )
            for i, size in enumerate(images.image_sizes)
        ]
        for i, image in enumerate(heads.forward_with_given_boxes(features, found)):
            check(image.pred_masks[:, 0], case[f"test.masks{i}"])


class Maps(Backbone):
    """Returns maps that were computed before."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = {f"res{i + 2}": level for i, level in enumerate(maps)}

    def forward(self, images: Tensor) -> Arrays:
        return self.maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=level.shape[1], stride=4 * 2**i)
            for i, (name, level) in enumerate(self.maps.items())
        }


def test_extra_attention() -> None:
    case = {k.removeprefix("extra."): v for k, v in read("necks").items() if k.startswith("extra.")}
    renamer = Renamer(EXTRA_ATTENTION)
    parameters = {
        renamer.to_ours(f"neck.0.{key.removeprefix('param.')}"): value
        for key, value in case.items()
        if key.startswith("param.")
    }
    last = case["in"].requires_grad_()
    others = [torch.randn(len(last), 3, 2, 2) for _ in range(3)]
    hidden = len(case["param.ffn.fc1.bias"])
    neck = ExtraAttention(
        bottom_up=Maps([*others, last]),
        num_heads=4,
        mlp_ratio=hidden / last.shape[1],
        drop_path_rate=0.3,
    )
    load_strict(neck, {k.removeprefix("backbone.bottom_up."): v for k, v in parameters.items()})
    outputs = neck.eval()(torch.empty(0))
    check(outputs["res5"], case["out"])
    assert all(outputs[f"res{i + 2}"] is level for i, level in enumerate(others))
    (outputs["res5"] * case["cotangent"]).sum().backward()
    check(last.grad, case["grad_in"])
    check(neck.block.attn.qkv.bias.grad, case["grad.attn.qkv.bias"])
