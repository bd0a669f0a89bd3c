"""Small detectors of every family with random weights, and how the tests run and compare them."""

from collections.abc import Callable

import torch
from detectron2.config import LazyCall as L, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.ops import roi_align

from vit_adapter import model_zoo

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
NUM_CLASSES = 3


class Convolutions(Backbone):
    """One strided convolution for each map."""

    size_divisibility = 32

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({n: nn.Conv2d(3, 32, STRIDES[n], STRIDES[n]) for n in names})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: conv(images) for name, conv in self.convs.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=32, stride=STRIDES[name]) for name in self.convs}


def _small(model: DictConfig) -> DictConfig:
    """Make the parts small that all two-stage detectors have."""
    model.backbone.bottom_up = L(Convolutions)(names=list(STRIDES))
    model.backbone.out_channels = 8
    model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
    model.proposal_generator.post_nms_topk = [40, 40]
    model.roi_heads.num_classes = NUM_CLASSES
    return model


def mask_rcnn(config: str = "mask_rcnn") -> DictConfig:
    model = _small(model_zoo.get_config(f"common/models/{config}").model)
    heads = model.roi_heads
    heads.box_head.fc_dims, heads.mask_head.conv_dims = [16, 16], [8, 8]
    heads.box_predictor.test_score_thresh = 0.0
    return model


def no_fpn() -> DictConfig:
    return mask_rcnn("mask_rcnn_no_fpn")


def detectron2_cascade() -> DictConfig:
    """Detectron2's own cascade: three box heads, one mask head."""
    model = mask_rcnn()
    heads = model.roi_heads
    heads._target_ = CascadeROIHeads
    heads.box_predictor.cls_agnostic_bbox_reg = True
    heads.box_heads = [heads.pop("box_head")] * 3
    heads.box_predictors = [heads.pop("box_predictor")] * 3
    for predictor in heads.box_predictors:
        predictor.input_shape.channels = 16
        predictor.num_classes = NUM_CLASSES
    for head in heads.box_heads:
        head.input_shape.channels = 8
    heads.proposal_matchers = [heads.pop("proposal_matcher")] * 3
    return model


def cascade(config: str = "cascade_mask_rcnn") -> DictConfig:
    model = _small(model_zoo.get_config(f"common/models/{config}").model)
    heads = model.roi_heads
    for stage in range(3):
        heads.box_heads[stage].conv_dims, heads.box_heads[stage].conv_norm = [8], ""
        heads.box_heads[stage].fc_dims, heads.mask_heads[stage].conv_dims = [16], [8, 8]
        heads.box_predictors[stage].test_score_thresh = 0.0
    return model


def htc() -> DictConfig:
    model = cascade("htc")
    model.backbone.bottom_up = L(Convolutions)(names=list(STRIDES))
    model.roi_heads.semantic_head.num_classes = 5
    return model


def atss(kind: str = "atss") -> DictConfig:
    model = model_zoo.get_config("common/models/dense_detector")[kind]
    model.backbone.bottom_up = L(Convolutions)(names=["res3", "res4", "res5"])
    model.backbone.out_channels, model.head.conv_dims = 8, [64]
    model.anchor_generator.sizes = [[24], [48], [64], [96], [128]]
    model.num_classes, model.test_score_thresh = NUM_CLASSES, 0.0
    return model


def gfl() -> DictConfig:
    return atss("gfl")


def sparse() -> DictConfig:
    model = model_zoo.get_config("common/models/sparse_rcnn").model
    model.backbone.bottom_up = L(Convolutions)(names=list(STRIDES))
    model.backbone.out_channels, model.roi_heads.num_classes = 16, NUM_CLASSES
    model.proposal_generator.num_proposals = 40
    model.roi_heads.stages = model.roi_heads.stages[:2]
    return model


class SetDetector(nn.Module):
    """Predicts a set of boxes at once: no NMS, only a limit; class c has the score of channel c."""

    def __init__(self, most: int = 6) -> None:
        super().__init__()
        self.test_topk_per_image = most
        grid = torch.arange(9) / 12
        x, y = (part.flatten() for part in torch.meshgrid(grid, grid, indexing="xy"))
        self.register_buffer("boxes", torch.stack([x, y, x + 0.3, y + 0.3], dim=1))

    def forward(self, batch: list[dict]) -> list[dict]:
        return [{"instances": self.detect(**inputs)} for inputs in batch]

    def detect(self, image: Tensor, **size: int) -> Instances:
        height, width = image.shape[1:]
        boxes = self.boxes * self.boxes.new_tensor([width, height] * 2)
        image = image.to(self.boxes) / 255
        scores = roi_align(image[None], [boxes], 1, sampling_ratio=4, aligned=True).flatten()
        scores, order = scores.sort(descending=True, stable=True)
        best = slice(self.test_topk_per_image)
        factors = boxes.new_tensor([size.get("width", width) / width] * 4)
        factors[1::2] = size.get("height", height) / height
        found = Instances((size.get("height", height), size.get("width", width)))
        found.pred_boxes = Boxes(boxes[order[best] // 3] * factors)
        found.scores, found.pred_classes = scores[best], order[best] % 3
        return found


CONFIGS: dict[str, Callable[[], DictConfig]] = {
    "mask_rcnn": mask_rcnn,
    "no_fpn": no_fpn,
    "detectron2_cascade": detectron2_cascade,
    "cascade": cascade,
    "htc": htc,
    "atss": atss,
    "gfl": gfl,
    "sparse": sparse,
    "set": lambda: L(SetDetector)(),
}
WITH_MASKS = {"mask_rcnn", "no_fpn", "detectron2_cascade", "cascade", "htc"}


def build(family: str) -> nn.Module:
    torch.manual_seed(0)
    model = instantiate(CONFIGS[family]())
    for module in model.modules():  # initial weights are so small that all scores are alike
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=1.4 * module.weight[0].numel() ** -0.5)
    return model.eval()


def random_image(height: int, width: int, seed: int = 0) -> Tensor:
    """Blocks of colour, so that boxes differ in score."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (3, 6, 7), generator=generator, dtype=torch.uint8)
    return nn.functional.interpolate(blocks[None], size=(height, width))[0]


def plain(model: nn.Module, image: Tensor, **size: int) -> Instances:
    with torch.no_grad():
        return model([{"image": image, **size}])[0]["instances"]


def assert_same(found: Instances, expected: Instances, **tolerance: float) -> None:
    assert len(found) == len(expected) > 0 and found.image_size == expected.image_size
    assert found.get_fields().keys() == expected.get_fields().keys()
    values = {name: (found.get(name), value) for name, value in expected.get_fields().items()}
    values["pred_boxes"] = tuple(boxes.tensor for boxes in values["pred_boxes"])
    for one, other in values.values():
        torch.testing.assert_close(one, other, **tolerance or {"rtol": 0, "atol": 0})
