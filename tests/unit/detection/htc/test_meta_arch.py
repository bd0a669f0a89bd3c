"""The whole hybrid task cascade at a small size: labels, empty images, prediction."""

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_adapter import model_zoo

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class Patches(Backbone):
    """One convolution per stride."""

    size_divisibility = 32

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({n: nn.Conv2d(3, 32, s, s) for n, s in STRIDES.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: conv(images) for name, conv in self.convs.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=32, stride=s) for name, s in STRIDES.items()}


@pytest.fixture
def config() -> DictConfig:
    torch.manual_seed(0)
    config = model_zoo.get_config("common/models/htc").model
    config.backbone.bottom_up.bottom_up = LazyCall(Patches)()
    config.backbone.out_channels = 8
    heads = config.roi_heads
    heads.num_classes, heads.semantic_head.num_classes = 3, 5
    heads.batch_size_per_image = 16
    config.proposal_generator.post_nms_topk = [20, 20]
    for stage in range(3):
        heads.box_heads[stage].conv_dims, heads.box_heads[stage].fc_dims = [8], [16]
        heads.mask_heads[stage].conv_dims = [8, 8]
    return config


@pytest.fixture
def model(config: DictConfig) -> nn.Module:
    return instantiate(config)


@pytest.fixture
def without_labels(config: DictConfig) -> nn.Module:
    config.roi_heads.semantic_head = None
    return instantiate(config)


def example(height: int = 60, width: int = 90, count: int = 2) -> dict[str, object]:
    boxes = torch.tensor([[8.0, 8, 48, 40], [30, 20, 80, 55]])[:count]
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks))
    instances.gt_classes = torch.tensor([0, 2])[:count]
    labels = torch.full((height, width), 1)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": instances, "sem_seg": labels, "file_name": "a.png"}


def test_every_parameter_is_trained(model: nn.Module) -> None:
    with EventStorage():
        losses = model([example(), example(64, 50, count=1)])
    stages = {f"loss_{n}_stage{s}" for n in ("cls", "box_reg", "mask") for s in range(3)}
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_sem_seg", *stages}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_images_without_objects(model: nn.Module) -> None:
    with EventStorage():
        losses = model([example(count=0)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_padding_has_no_label(model: nn.Module) -> None:
    """Only labels count, so the loss of two images is their mean over all pixels with padding."""
    labels = []
    model.roi_heads.semantic_head.losses = lambda scores, given: labels.append(given) or {}
    with EventStorage():
        model([example(60, 90), example(64, 50)])
    (padded,) = labels
    assert padded.shape == (2, 64, 96)
    assert (padded[0, :60, :90] == 1).all() and (padded[1, :, :50] == 1).all()
    assert (padded[0, 60:] == 255).all() and (padded[1, :, 50:] == 255).all()


def test_missing_labels_are_named(model: nn.Module) -> None:
    record = example()
    del record["sem_seg"]
    with pytest.raises(ValueError, match=r"a\.png has no 'sem_seg'.*semantic_head=null"):
        model([record])


def test_the_semantic_branch_can_be_left_out(without_labels: nn.Module) -> None:
    record = example()
    del record["sem_seg"]
    with EventStorage():
        losses = without_labels([record])
    assert {"loss_mask_stage2", "loss_cls_stage2"} < set(losses)
    assert not [name for name in losses if "sem_seg" in name]
    sum(losses.values()).backward()
    parameters = dict(without_labels.named_parameters())
    assert not [name for name in parameters if "semantic" in name]
    assert not [name for name, p in parameters.items() if p.grad is None]


def test_the_mask_branch_can_be_left_out(config: DictConfig) -> None:
    for key in ("mask_in_features", "mask_pooler", "mask_heads"):
        config.roi_heads[key] = None
    model, record = instantiate(config), example()
    record["instances"].remove("gt_masks")
    with EventStorage():
        losses = model([record])
    stages = {f"loss_{n}_stage{s}" for n in ("cls", "box_reg") for s in range(3)}
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_sem_seg", *stages}


def test_a_semantic_branch_without_its_pooler_is_an_error(config: DictConfig) -> None:
    config.roi_heads.semantic_pooler = None
    with pytest.raises(ValueError, match="semantic_head needs a semantic_pooler"):
        instantiate(config.roi_heads)


@pytest.mark.parametrize("kind", ["model", "without_labels"])
def test_prediction(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind).eval()
    with torch.no_grad():
        (found,) = model([{"image": example()["image"], "height": 120, "width": 180}])
    instances = found["instances"]
    assert 0 < len(instances) <= 100
    assert instances.pred_masks.shape == (len(instances), 120, 180)
