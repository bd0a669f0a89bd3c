"""The proposal network."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from vit_adapter import model_zoo
from vit_adapter.detection import InsideAnchorsRPN


@pytest.fixture
def rpn() -> InsideAnchorsRPN:
    model = model_zoo.get_config("common/models/cascade_mask_rcnn").model
    model.backbone.out_channels = 8
    return instantiate(model.proposal_generator)


def targets(*boxes: list[float], size: tuple[int, int]) -> Instances:
    return Instances(size, gt_boxes=Boxes(torch.tensor(boxes).view(-1, 4)))


def test_the_best_anchor_is_one_inside_the_image(rpn: InsideAnchorsRPN) -> None:
    """The best of all anchors leaves the image; Detectron2 would train on none for this object."""
    anchors = [Boxes(torch.tensor([[-1.0, 0, 10, 10], [0, 0, 20, 20], [30, 30, 40, 40]]))]
    (labels,), (boxes,) = rpn.label_and_sample_anchors(
        anchors, [targets([0, 0, 11, 12], size=(64, 64))]
    )
    assert labels.tolist() == [-1, 1, 0]
    assert boxes[1].tolist() == [0, 0, 11, 12]


def test_anchors_in_the_padding_of_an_image(rpn: InsideAnchorsRPN) -> None:
    rpn.anchor_boundary_thresh = -1.0
    centres = torch.tensor([[0.0, 0], [48, 24], [64, 24], [48, 32]])
    anchors = [Boxes(torch.cat([centres - 40, centres + 40], dim=1))]
    (labels,), _ = rpn.label_and_sample_anchors(anchors, [targets(size=(20, 40))])
    assert labels.tolist() == [0, 0, -1, -1]  # padded to 32 x 64


def test_losses_are_divided_by_the_number_of_sampled_anchors(rpn: InsideAnchorsRPN) -> None:
    features = {f"p{i + 2}": torch.zeros(1, 8, 32 >> i, 32 >> i) for i in range(5)}
    images = ImageList(torch.zeros(1, 3, 128, 128), [(128, 128)])
    torch.nn.init.zeros_(rpn.rpn_head.objectness_logits.weight)
    with EventStorage():
        _, losses = rpn(images, features, [targets(size=(128, 128))])
        # 256 of background, and at least one object is counted
        assert losses["loss_rpn_cls"].item() == pytest.approx(0.6931472 * 256 / 257)
        assert losses["loss_rpn_loc"].item() == 0
        rpn.anchor_boundary_thresh = 0.0
        _, losses = rpn(images, features, [targets(size=(8, 8))])  # no anchor is inside
        assert [loss.item() for loss in losses.values()] == [0, 0]
