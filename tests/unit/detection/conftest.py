"""Every family of detectors, small and on a backbone of a few convolutions."""

from collections.abc import Callable

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.layers.sync_norm import adapt_sync_batch_norm

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
FAMILIES = {
    "mask_rcnn": "mask_rcnn",
    "mask_rcnn_no_fpn": "mask_rcnn_no_fpn",
    "cascade": "cascade_mask_rcnn",
    "htc": "htc",
    "atss": "dense_detector",
    "gfl": "dense_detector",
    "sparse_rcnn": "sparse_rcnn",
}
"""Names of the families, and the files in ``configs/common/models`` that have them."""


class Patches(Backbone):
    """One convolution per stride."""

    size_divisibility = 32

    def __init__(self, out_features: list[str]) -> None:
        super().__init__()
        convs = {name: nn.Conv2d(3, 32, STRIDES[name], STRIDES[name]) for name in out_features}
        self.convs = nn.ModuleDict(convs)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: conv(images) for name, conv in self.convs.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=32, stride=STRIDES[name]) for name in self.convs}


def make_family(family: str, *, masks: bool = True) -> nn.Module:
    """Build a small model with 3 classes (and 5 semantic ones), without masks if told so."""
    config = model_zoo.get_config(f"common/models/{FAMILIES[family]}")
    model = config[family] if family in config else config.model
    patches = LazyCall(Patches)(out_features=list(model.backbone.in_features))
    if family == "htc":
        model.backbone.bottom_up.bottom_up = patches
        model.roi_heads.semantic_head.num_classes = 5
    else:
        model.backbone.bottom_up = patches
    model.backbone.out_channels = 8
    if "head" in model:
        model.num_classes, model.head.conv_dims, model.head.norm = 3, [8], ""
        return instantiate(model)
    heads = model.roi_heads
    if "stages" in heads:
        heads.num_classes, heads.stages = 3, heads.stages[:2]
        model.proposal_generator.num_proposals = 20
        for stage in heads.stages:
            stage.dynamic_channels, stage.ffn_channels = 4, 16
        return instantiate(model)
    heads.num_classes, heads.batch_size_per_image = 3, 16
    model.proposal_generator.post_nms_topk = [20, 20]
    for head in heads.get("box_heads") or [heads.box_head]:
        head.fc_dims = [16 for _ in head.fc_dims]
        head.conv_dims = [8 for _ in head.conv_dims]
    for head in heads.get("mask_heads") or [heads.mask_head]:
        head.conv_dims = [8, 8]
    if not masks:
        for key in {"mask_in_features", "mask_pooler", "mask_head", "mask_heads"} & set(heads):
            heads[key] = None
    return adapt_sync_batch_norm(instantiate(model))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_detector() -> Callable[..., nn.Module]:
    """Build the small model of a family, always with the same weights."""

    def make(family: str, **options: bool) -> nn.Module:
        torch.manual_seed(0)
        return make_family(family, **options)

    return make
