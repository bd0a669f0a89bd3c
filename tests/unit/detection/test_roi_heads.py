"""The heads of Mask R-CNN; their numbers are compared with the original's in ``tests/oracle``."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig

from vit_adapter import model_zoo
from vit_adapter.detection import AssigningROIHeads

SIZE = (64, 64)


@pytest.fixture
def config() -> DictConfig:
    model = model_zoo.get_config("common/models/mask_rcnn").model
    model.backbone.out_channels = 8
    model.roi_heads.num_classes = 2
    model.roi_heads.box_head.fc_dims = [16, 16]
    model.roi_heads.mask_head.conv_dims = [8, 8]
    return model.roi_heads


def truths(boxes: list[list[float]], masks: bool = True) -> Instances:
    found = Instances(
        SIZE,
        gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        gt_classes=torch.arange(len(boxes)) % 2,
    )
    if masks:
        found.gt_masks = BitMasks(torch.ones(len(boxes), *SIZE, dtype=torch.bool))
    return found


def train(heads: AssigningROIHeads, *targets: Instances) -> tuple[list[Instances], dict]:
    features = {f"p{i + 2}": torch.randn(len(targets), 8, 16 >> i, 16 >> i) for i in range(4)}
    boxes = Boxes(torch.tensor([[0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 50.0, 60.0]]))
    proposals = [Instances(SIZE, proposal_boxes=boxes) for _ in targets]
    with EventStorage():
        return heads(None, features, proposals, list(targets))


def test_a_ground_truth_takes_its_best_proposal_from_another(config: DictConfig) -> None:
    """The proposal overlaps the first one with 0.9, and is the best of the second one with 0.6."""
    targets = truths([[0.0, 0.0, 20.0, 18.0], [0.0, 0.0, 20.0, 12.0]])
    (regions,), _ = train(instantiate(config), targets)
    assert regions.gt_index.tolist() == [0, 1, 1, 0]
    assert regions.gt_classes.tolist() == [0, 1, 1, 2]


def test_every_parameter_is_trained(config: DictConfig) -> None:
    heads = instantiate(config)
    _, losses = train(heads, truths([[0.0, 0.0, 20.0, 18.0]]), truths([], masks=False))
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    sum(losses.values()).backward()
    assert [name for name, p in heads.named_parameters() if p.grad is None] == []


def test_no_image_has_objects(config: DictConfig) -> None:
    _, losses = train(instantiate(config), truths([], masks=False))
    assert losses["loss_cls"] > 0 and losses["loss_box_reg"] == losses["loss_mask"] == 0


def test_heads_without_masks(config: DictConfig) -> None:
    config.mask_in_features = config.mask_pooler = config.mask_head = None
    _, losses = train(instantiate(config), truths([[0.0, 0.0, 20.0, 18.0]], masks=False))
    assert set(losses) == {"loss_cls", "loss_box_reg"}


def test_keypoints_are_refused(config: DictConfig) -> None:
    config.update(keypoint_in_features=["p2"], keypoint_pooler=None, keypoint_head=None)
    with pytest.raises(ValueError, match="does not train keypoints"):
        instantiate(config)
