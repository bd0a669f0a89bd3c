"""The parts of the hybrid task cascade against numbers computed by the original's libraries.

Reads the cases in the folder named by ``VIT_ADAPTER_GOLDEN_DETECTION``, by default the
``golden_detection`` folder beside this file. Sizes come from the arrays, so other cases can be
tried too.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.structures import Boxes
from torch import Tensor, nn

from vit_adapter.checkpoint.original.layouts.htc import (
    EXTRA_ATTENTION,
    MASK_FLOW,
    SEMANTIC_BRANCH,
)
from vit_adapter.checkpoint.original.layouts.mask_rcnn import MASK_RCNN
from vit_adapter.checkpoint.original.rules import Renamer
from vit_adapter.detection.htc import (
    ExtraAttention,
    FlowMaskHead,
    FusedSemanticHead,
    SemanticFusion,
    mask_features,
)

FOLDER = Path(
    os.environ.get("VIT_ADAPTER_GOLDEN_DETECTION") or Path(__file__).parent / "golden_detection"
)
CASES = sorted(file.stem for file in FOLDER.glob("htc*_[ab].npz"))
# Constants of the original's configs
NUM_STAGES = 3
STAGE_WEIGHTS = (1.0, 0.5, 0.25)
STRIDES = (4, 8, 16, 32, 64)
BOX_SIDE, MASK_SIDE = 7, 14
ATTENTION_HEADS = 4
CLOSE = {"atol": 1e-10, "rtol": 1e-9}

Arrays = dict[str, Tensor]


def read(name: str) -> Arrays:
    with np.load(FOLDER / f"{name}.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    return {
        key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)
    }


class Pyramid(Backbone):
    """Returns maps that were computed before."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        super().__init__()
        self.maps = {f"res{i + 2}": level for i, level in enumerate(maps)}

    def forward(self, images: Tensor) -> Arrays:
        return self.maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=level.shape[1], stride=4 * 2**i)
            for i, (name, level) in enumerate(self.maps.items())
        }


def as_boxes(coordinates: Tensor) -> Boxes:
    """Boxes in float64, which the constructor would round to float32."""
    boxes = Boxes(coordinates)
    boxes.tensor = coordinates
    return boxes


class Heads:
    """The heads of one case, with its parameters, and its features."""

    def __init__(self, case: str) -> None:
        self.arrays = read(case)
        self.parameters = read(f"{case.split('_')[0]}_params")
        self.features = {f"p{i + 2}": self.arrays[f"in.feat{i}"] for i in range(len(STRIDES))}
        self.channels = self.parameters["semantic_head.convs.0.conv.weight"].shape[0]
        self.semantic = self._semantic_head()
        self.scores, self.embedding = self.semantic(self.features)
        pooler = ROIPooler(MASK_SIDE, [1 / self.semantic.stride], 0, "ROIAlignV2")
        self.fusion = SemanticFusion(pooler=pooler)

    def stage(self, stage: int, part: str) -> Arrays:
        """The parameters of a stage's "box_head", "box_predictor" or "mask_head"."""
        branch = "mask_head" if part == "mask_head" else "bbox_head"
        names = with_prefix(self.parameters, f"{branch}.{stage}.")
        renamer = Renamer([*MASK_RCNN.rules(()), *MASK_FLOW])
        ours = {}
        for name, value in names.items():
            flow = f"{stage}." if name.startswith("conv_res.") else ""
            key = renamer.to_ours(f"roi_head.{branch}.{flow}{name}")
            ours[key.replace(f".{stage}.conv_res", ".conv_res")] = value
        return with_prefix(ours, f"roi_heads.{part}.")

    def _semantic_head(self) -> FusedSemanticHead:
        shapes = {
            name: ShapeSpec(channels=level.shape[1], stride=stride)
            for (name, level), stride in zip(self.features.items(), STRIDES, strict=True)
        }
        theirs = with_prefix(self.parameters, "semantic_head.")
        renamer = Renamer(SEMANTIC_BRANCH)
        ours = {renamer.to_ours(f"roi_head.semantic_head.{k}"): v for k, v in theirs.items()}
        head = FusedSemanticHead(
            input_shape=shapes,
            num_classes=len(theirs["conv_logits.bias"]),
            conv_dim=self.channels,
        ).double()
        head.load_state_dict(with_prefix(ours, "roi_heads.semantic_head."))
        return head

    def pool(self, boxes: list[Boxes], side: int) -> Tensor:
        """The features of boxes on both branches, (R, C, side, side)."""
        levels = list(self.features.values())[:4]
        pooler = ROIPooler(side, [1 / stride for stride in STRIDES[:4]], 0, "ROIAlignV2")
        return self.fusion(pooler(levels, boxes), self.embedding, boxes)

    def box_stage(self, stage: int) -> nn.Sequential:
        state, outputs = self.stage(stage, "box_head"), self.stage(stage, "box_predictor")
        has_norm = any(".norm." in name for name in state)
        convs = [self.channels for name in state if name.startswith("conv") and "norm" not in name]
        width, num_scores = outputs["cls_score.weight"].T.shape
        head = FastRCNNConvFCHead(
            ShapeSpec(channels=self.channels, height=BOX_SIDE, width=BOX_SIDE),
            conv_dims=convs if has_norm else convs[::2],  # otherwise a weight and a bias each
            fc_dims=[width],
            conv_norm="BN" if has_norm else "",
        )
        predictor = FastRCNNOutputLayers(
            ShapeSpec(channels=width),
            box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
            num_classes=num_scores - 1,
            cls_agnostic_bbox_reg=True,
        )
        head.load_state_dict(state)
        predictor.load_state_dict(outputs)
        return nn.Sequential(head, predictor).double()

    def mask_heads(self) -> list[FlowMaskHead]:
        heads = []
        for stage in range(NUM_STAGES):
            state = self.stage(stage, "mask_head")
            head = FlowMaskHead(
                input_shape=ShapeSpec(channels=self.channels),
                has_predecessor=stage > 0,
                num_classes=len(state["predictor.bias"]),
                conv_dims=[self.channels] * 5,
            ).double()
            head.load_state_dict(state)
            heads.append(head)
        return heads


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=CASES)
def heads(request: pytest.FixtureRequest) -> Heads:
    return Heads(request.param)


def test_there_are_cases() -> None:
    assert CASES


def test_semantic_head(heads: Heads) -> None:
    arrays = heads.arrays
    torch.testing.assert_close(heads.scores, arrays["semantic.pred"], **CLOSE)
    torch.testing.assert_close(heads.embedding, arrays["semantic.feat"], **CLOSE)
    targets = arrays["in.gt_semantic_seg"][:, 0]
    assert (targets == heads.semantic.ignore_value).any()
    (loss,) = heads.semantic.losses(heads.scores, targets).values()
    torch.testing.assert_close(loss, arrays["loss.semantic_seg"], **CLOSE)
    # Labels of the whole image, of which only the first pixel of each cell counts
    full = torch.full((len(targets), *(8 * side for side in targets.shape[1:])), 255)
    full[:, ::8, ::8] = targets
    torch.testing.assert_close(heads.semantic.losses(heads.scores, full), {"loss_sem_seg": loss})


@pytest.mark.parametrize("stage", range(NUM_STAGES))
def test_box_features_with_semantic_features(heads: Heads, stage: int) -> None:
    rois = heads.arrays[f"s{stage}.rois"]
    boxes = [as_boxes(rois[rois[:, 0] == image, 1:]) for image in range(2)]
    scores, deltas = heads.box_stage(stage)(heads.pool(boxes, BOX_SIDE))
    torch.testing.assert_close(scores, heads.arrays[f"s{stage}.cls_score"], **CLOSE)
    torch.testing.assert_close(deltas, heads.arrays[f"s{stage}.bbox_pred"], **CLOSE)


@pytest.mark.parametrize("stage", range(NUM_STAGES))
def test_training_of_a_mask_head(heads: Heads, stage: int) -> None:
    arrays = heads.arrays
    boxes = []
    for image in range(2):
        proposals = arrays[f"s{stage}.mask.proposals{image}"]
        candidates = torch.cat([arrays[f"in.gt_bboxes{image}"], proposals])
        boxes.append(as_boxes(candidates[arrays[f"s{stage}.mask.pos_inds{image}"]]))
    mask_heads = heads.mask_heads()[: stage + 1]
    features = mask_features(mask_heads, heads.pool(boxes, MASK_SIDE))
    labels = arrays[f"s{stage}.mask.labels"]
    logits = mask_heads[-1].predict(features[-1])[torch.arange(len(labels)), labels]
    torch.testing.assert_close(logits[:2], arrays[f"s{stage}.mask.pred_first2"], **CLOSE)
    targets = arrays[f"s{stage}.mask.targets"].double()
    loss = STAGE_WEIGHTS[stage] * F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(loss, arrays[f"s{stage}.loss_mask"], **CLOSE)
    loss.backward()
    assert all(head.mask_fcn1.weight.grad.any() for head in mask_heads)


def test_masks_are_the_mean_of_all_stages(heads: Heads) -> None:
    arrays = heads.arrays
    expected = [arrays[f"test.masks{image}"] for image in range(2)]
    boxes = [as_boxes(arrays[f"test.boxes{i}"][: len(masks)]) for i, masks in enumerate(expected)]
    labels = torch.cat(
        [arrays[f"test.labels{i}"][: len(masks)] for i, masks in enumerate(expected)]
    )
    mask_heads = heads.mask_heads()
    features = mask_features(mask_heads, heads.pool(boxes, MASK_SIDE))
    stages = zip(mask_heads, features, strict=True)
    masks = torch.stack([head.predict(each).sigmoid() for head, each in stages]).mean(0)
    chosen = masks[torch.arange(len(labels)), labels]
    torch.testing.assert_close(chosen, torch.cat(expected), **CLOSE)


def test_extra_attention() -> None:
    arrays = with_prefix(read("necks"), "extra.")
    theirs, last = with_prefix(arrays, "param."), arrays["in"].requires_grad_()
    others = [torch.randn(len(last), 3, 2, 2) for _ in range(3)]
    neck = ExtraAttention(
        bottom_up=Pyramid([*others, last]),
        num_heads=ATTENTION_HEADS,
        mlp_ratio=len(theirs["ffn.fc1.bias"]) / last.shape[1],
        drop_path_rate=0.3,
    )
    renamer = Renamer(EXTRA_ATTENTION)
    ours = {renamer.to_ours(f"neck.0.{name}"): value for name, value in theirs.items()}
    neck.load_state_dict(with_prefix(ours, "backbone.bottom_up."))
    neck.eval()
    outputs = neck(torch.empty(0))
    torch.testing.assert_close(outputs["res5"], arrays["out"], **CLOSE)
    assert all(outputs[f"res{i + 2}"] is level for i, level in enumerate(others))
    (outputs["res5"] * arrays["cotangent"]).sum().backward()
    torch.testing.assert_close(last.grad, arrays["grad_in"], **CLOSE)
    bias = neck.block.attn.qkv.bias.grad
    torch.testing.assert_close(bias, arrays["grad.attn.qkv.bias"], **CLOSE)


@pytest.mark.parametrize("rules", [SEMANTIC_BRANCH, MASK_FLOW, EXTRA_ATTENTION])
def test_names_find_their_way_back(rules: list) -> None:
    keys = [f"roi_head.{name}" for case in ("htc", "htco365") for name in read(f"{case}_params")]
    keys += [f"neck.0.{name}" for name in with_prefix(read("necks"), "extra.param.")]
    renamer = Renamer(rules)
    renamed = {key: name for key in keys if (name := renamer.to_ours(key)) is not None}
    assert renamed
    assert {renamer.to_theirs(name) for name in renamed.values()} == set(renamed)
