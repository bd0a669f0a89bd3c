"""Small detectors for the tests of wrappers."""

from collections.abc import Callable

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from vit_adapter import model_zoo

MASK_SIDE = 5


class Pixels(Backbone):
    """The image is the only feature map."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"image": image}


class NoProposals(nn.Module):
    def forward(self, images, features, targets):
        return [None], {}


class GridHeads(nn.Module):
    """Boxes on grids that are symmetric, scored by the image: mirror images give mirrored results.

    The score of class c is the mean of channel c, and a mask is the red channel in the box.
    """

    def __init__(self) -> None:
        super().__init__()
        self.test_score_thresh, self.test_nms_thresh = 0.3, 0.5
        self.test_topk_per_image, self.mask_on = 10, True

    def forward(self, images, features, proposals, targets):
        (size,) = images.image_sizes
        boxes, scores, classes = self.candidates(features["image"], size)
        keep = [
            place[nms(boxes[place], scores[place], self.test_nms_thresh)]
            for place in ((classes == number).nonzero()[:, 0] for number in range(2))
        ]
        keep = torch.cat(keep)
        keep = keep[scores[keep].argsort(descending=True)][: self.test_topk_per_image]
        found = Instances(
            size, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep]
        )
        return self.forward_with_given_boxes(features, [found]), {}

    def candidates(self, image: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        cells = [
            (x / n, y / n, (x + 1) / n, (y + 1) / n)
            for n in (2, 3, 5)
            for y in range(n)
            for x in range(n)
        ]
        boxes = torch.tensor(cells) * torch.tensor([size[1], size[0]] * 2)
        means = roi_align(image, [boxes], 1, sampling_ratio=4, aligned=True)[:, :2, 0, 0] / 255
        rows, classes = (means > self.test_score_thresh).nonzero().T
        return boxes[rows], means[rows, classes], classes

    def forward_with_given_boxes(self, features, instances):
        (found,) = instances
        if self.mask_on:
            found.pred_masks = self.masks(features["image"], found.pred_boxes.tensor)
        return [found]

    def masks(self, image: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(image, [boxes], MASK_SIDE, sampling_ratio=4, aligned=True)[:, :1] / 255


def grid_detector() -> GeneralizedRCNN:
    return GeneralizedRCNN(
        backbone=Pixels(),
        proposal_generator=NoProposals(),
        roi_heads=GridHeads(),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
    ).eval()


def mask_rcnn() -> nn.Module:
    """The quick-start Mask R-CNN with random weights, which finds its random boxes."""
    cfg = model_zoo.get_config("quick_start/mask_rcnn_vit_adapter_shapes")
    cfg.model.roi_heads.box_predictor.test_score_thresh = 0.0
    torch.manual_seed(0)
    return instantiate(cfg.model).eval()


class Strided(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, stride=8, padding=1)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"p3": ShapeSpec(channels=8, stride=8)}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"p3": self.layer(image)}


def retinanet() -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(
        backbone=Strided(),
        head=RetinaNetHead(
            input_shape=[ShapeSpec(channels=8)], num_classes=3, num_anchors=1, conv_dims=[8]
        ),
        head_in_features=["p3"],
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[24]], aspect_ratios=[1.0], strides=[8], offset=0.0
        ),
        box2box_transform=Box2BoxTransform(weights=[1.0] * 4),
        anchor_matcher=Matcher(thresholds=[0.4, 0.5], labels=[0, -1, 1]),
        num_classes=3,
        test_score_thresh=0.0,
        pixel_mean=[127.0] * 3,
        pixel_std=[60.0] * 3,
    ).eval()


@pytest.fixture
def make_detector() -> Callable[[str], nn.Module]:
    """Build "grid", a detector with obvious results, or one of Detectron2's with random weights."""
    makers = {"grid": grid_detector, "mask_rcnn": mask_rcnn, "retinanet": retinanet}
    return lambda name: makers[name]()
