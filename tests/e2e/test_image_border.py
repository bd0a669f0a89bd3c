"""Objects at the bottom and right border of images whose sides are not multiples of 32.

The model pads such images. Masks must reach the last row and column all the same, and what is
inside the image must not depend on who pads.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from vit_adapter import LazyPredictor

pytestmark = pytest.mark.e2e

SIZES = [(70, 90), (33, 65), (97, 64), (31, 127), (128, 128)]


@pytest.fixture(scope="module")
def predictor():
    """The quick-start model, random except for its mask head, which marks whole boxes."""
    torch.manual_seed(0)
    predictor = LazyPredictor(
        "quick_start/mask_rcnn_vit_adapter_shapes", overrides=["train.device=cpu"]
    )
    logits = predictor.model.roi_heads.mask_head.predictor
    torch.nn.init.zeros_(logits.weight)
    torch.nn.init.constant_(logits.bias, 20.0)
    return predictor


@pytest.fixture
def whole_image_boxes(predictor, monkeypatch):
    """Make the box head find two objects: the whole image and its lower right quarter."""
    sizes = []

    def note_size(model, batch):
        sizes[:] = [record["image"].shape[-2:] for record in batch[0]]

    def find(features, proposals):
        (height, width), (proposal,) = sizes[0], proposals
        boxes = torch.tensor([[0, 0, width, height], [width / 2, height / 2, width, height]])
        fields = {"scores": torch.ones(2), "pred_classes": torch.zeros(2, dtype=torch.long)}
        return [Instances(proposal.image_size, pred_boxes=Boxes(boxes), **fields)]

    handle = predictor.model.register_forward_pre_hook(note_size)
    monkeypatch.setattr(predictor.model.roi_heads, "_forward_box", find)
    yield
    handle.remove()


@pytest.mark.parametrize("short_edge", [None, 150])
@pytest.mark.parametrize("size", SIZES)
def test_masks_reach_the_last_row_and_column(
    predictor, whole_image_boxes, monkeypatch, size, short_edge
):
    height, width = size
    resize = predictor._augmentations.augs[0]
    monkeypatch.setattr(resize, "short_edge_length", [short_edge or min(size)] * 2)
    monkeypatch.setattr(resize, "max_size", 10_000)
    instances = predictor(np.full((height, width, 3), 200, np.uint8))["instances"]
    whole, quarter = instances.pred_masks
    assert whole.shape == (height, width)
    # Detectron2 rounds the corners of a pasted mask by up to half a cell of its 14 x 14 grid.
    rounding = max(size) // 28 + 1
    assert whole[rounding:-rounding].all() and whole[:, rounding:-rounding].all()
    assert torch.equal(whole, whole.flip(0, 1))
    assert quarter[-1, width // 2 + rounding : -rounding].all()
    assert quarter[height // 2 + rounding : -rounding, -1].all()
    assert not quarter[: height // 2 - 1].any() and not quarter[:, : width // 2 - 1].any()
    assert torch.allclose(
        instances.pred_boxes.tensor[:, 2:], torch.tensor([float(width), float(height)])
    )


@pytest.mark.parametrize("size", SIZES)
def test_padding_outside_and_inside_the_backbone_is_the_same(predictor, size):
    height, width = size
    backbone = predictor.model.backbone.bottom_up
    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inside = backbone(images)
        outside = backbone(F.pad(images, (0, -width % 32, 0, -height % 32)))
    for name, shape in backbone.output_shape().items():
        rows, columns = -(-height // shape.stride), -(-width // shape.stride)
        assert inside[name].shape[-2:] == (rows, columns)
        assert torch.equal(inside[name], outside[name][..., :rows, :columns])


@pytest.mark.parametrize("size", SIZES)
def test_padding_does_not_shift_coordinates(predictor, size):
    """A change of the image's last pixel changes the feature map's last cell."""
    height, width = size
    backbone = predictor.model.backbone.bottom_up
    images = torch.zeros(1, 3, height, width)
    changed = images.clone()
    changed[..., height - 1, width - 1] = 10.0
    with torch.no_grad():
        difference = (backbone(changed)["res2"] - backbone(images)["res2"]).abs().sum(1)[0]
    row, column = divmod(int(difference.argmax()), difference.shape[1])
    assert difference.shape[0] - row <= 2 and difference.shape[1] - column <= 2
