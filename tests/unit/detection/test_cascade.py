"""Cascade Mask R-CNN; its numbers are compared with the original's in ``tests/oracle``."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig

from vit_adapter import model_zoo
from vit_adapter.detection import CascadeMaskHeads
from vit_adapter.layers.sync_norm import adapt_sync_batch_norm

SIZE = (64, 64)


@pytest.fixture
def config() -> DictConfig:
    model = model_zoo.get_config("common/models/cascade_mask_rcnn").model
    model.backbone.out_channels = 8
    model.roi_heads.num_classes = 3
    for box_head, mask_head in zip(
        model.roi_heads.box_heads, model.roi_heads.mask_heads, strict=True
    ):
        box_head.conv_dims, box_head.fc_dims, mask_head.conv_dims = [8], [16], [8, 8]
    return model.roi_heads


@pytest.fixture
def heads(config: DictConfig) -> CascadeMaskHeads:
    return adapt_sync_batch_norm(instantiate(config))


def features(images: int = 2) -> dict[str, torch.Tensor]:
    return {f"p{i + 2}": torch.randn(images, 8, 16 >> i, 16 >> i) for i in range(4)}


def proposals(images: int = 2) -> list[Instances]:
    corners = 40 * torch.rand(images, 12, 2)
    boxes = torch.cat([corners, corners + 20], dim=-1)
    return [Instances(SIZE, proposal_boxes=Boxes(b)) for b in boxes]


def truths(count: int, masks: bool = True) -> Instances:
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0]]).repeat(count, 1)
    found = Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=torch.zeros(count).long())
    if masks:
        found.gt_masks = BitMasks(torch.ones(count, *SIZE, dtype=torch.bool))
    return found


def train(heads: CascadeMaskHeads, targets: list[Instances]) -> dict[str, torch.Tensor]:
    with EventStorage():
        return heads(None, features(), proposals(), targets)[1]


def test_every_parameter_is_trained(heads: CascadeMaskHeads) -> None:
    losses = train(heads, [truths(2), truths(1)])
    kinds = ("loss_cls", "loss_box_reg", "loss_mask")
    assert set(losses) == {f"{kind}_stage{stage}" for kind in kinds for stage in range(3)}
    sum(losses.values()).backward()
    assert [name for name, p in heads.named_parameters() if p.grad is None] == []


def test_stage_weights_multiply_all_losses(heads: CascadeMaskHeads) -> None:
    targets = [truths(2), truths(1)]
    with EventStorage():
        inputs = features(), proposals(), targets
        once = heads(None, *inputs)[1]
        heads.stage_weights = [2.0, 2.0, 2.0]
        twice = heads(None, *inputs)[1]
    for name, loss in once.items():
        weight = {"0": 1.0, "1": 0.5, "2": 0.25}[name[-1]]
        torch.testing.assert_close(twice[name] * weight / 2, loss)


@pytest.mark.parametrize("masks", [True, False])
def test_images_without_objects(heads: CascadeMaskHeads, masks: bool) -> None:
    """They need no masks, as Detectron2's mapper gives them none; all parameters get gradients."""
    losses = train(heads, [truths(0, masks), truths(0, masks)])
    assert all(loss.isfinite() for loss in losses.values())
    assert all(loss == 0 for name, loss in losses.items() if "cls" not in name)
    sum(losses.values()).backward()
    assert [name for name, p in heads.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_detection(heads: CascadeMaskHeads) -> None:
    heads.eval().box_predictor[-1].test_score_thresh = 0.1
    maps = features()
    detections, losses = heads(None, maps, proposals())
    assert losses == {}
    for image in detections:
        assert 0 < len(image) <= 100
        assert image.pred_masks.shape == (len(image), 1, 28, 28)
    given = [Instances(SIZE, **image.get_fields()) for image in detections]
    for image in given:
        image.remove("pred_masks")
    again = heads.forward_with_given_boxes(maps, given)
    assert again[1].pred_masks.equal(detections[1].pred_masks)


@torch.no_grad()
def test_no_proposals(heads: CascadeMaskHeads) -> None:
    none = [Instances(SIZE, proposal_boxes=Boxes(torch.zeros(0, 4)))] * 2
    detections, _ = heads.eval()(None, features(), none)
    assert [len(image) for image in detections] == [0, 0]
    assert detections[0].pred_masks.shape == (0, 1, 28, 28)


def test_without_masks(config: DictConfig) -> None:
    config.mask_in_features = config.mask_pooler = config.mask_heads = None
    heads = adapt_sync_batch_norm(instantiate(config))
    losses = train(heads, [truths(2, masks=False), truths(0, masks=False)])
    assert len(losses) == 6
    detections, _ = heads.eval()(None, features(), proposals())
    assert not detections[0].has("pred_masks")


def test_all_parts_have_the_same_number_of_stages(config: DictConfig) -> None:
    config.stage_weights = [1.0, 0.5]
    with pytest.raises(ValueError, match=r"as there are stages, got \[2, 3, 3, 3, 3\]"):
        instantiate(config)
