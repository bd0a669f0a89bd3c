"""The detectors from MAE: recipe, images and boxes, a training step."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from vit_adapter.data import coco_lsj_train, coco_test
from vit_adapter.solver import WarmupCosine

CONFIGS = {  # drop path
    "coco/mask_rcnn_vit_adapter_base_mae_lsj_25ep": 0.1,
    "coco/mask_rcnn_vit_adapter_base_mae_lsj_50ep": 0.2,
    "coco/mask_rcnn_vit_base_mae_lsj_25ep": 0.1,
    "coco/mask_rcnn_vit_base_mae_lsj_50ep": 0.2,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_recipe(name: str, load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(name)
    epochs = 25 if name.endswith("25ep") else 50
    backbone, schedule = cfg.model.backbone.bottom_up, instantiate(cfg.lr_multiplier)
    assert backbone.vit.drop_path_rate == CONFIGS[name]
    assert backbone.vit.layer_scale is False
    assert list(backbone.vit.window_sizes) == [14, 14, 0] * 4
    if "adapter" in name:
        assert (backbone.use_extra_extractor, backbone.drop_path_rate) == (False, CONFIGS[name])
    assert cfg.train.vit_checkpoint.endswith("/mae_pretrain_vit_base.pth")
    assert cfg.train.max_iter == epochs * 7330
    assert isinstance(schedule, WarmupCosine)
    assert (schedule.epochs, schedule.end_factor) == (epochs, 0.01)
    assert (schedule.warmup.warmup_iters, schedule.warmup.warmup_factor) == (2000, 0.001)
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 0.05)
    assert "custom_keys" in cfg.optimizer.params
    loaders = cfg.dataloader
    assert repr(instantiate(loaders.train.mapper.augmentations)) == repr(coco_lsj_train(1024))
    assert repr(instantiate(loaders.test.mapper.augmentations)) == repr(coco_test())
    assert list(cfg.model.train_size) == [1024, 1024]
    assert cfg.model.proposal_generator.size_divisibility == 1024  # anchors in the padding, too


def test_boxes_enclose_what_a_crop_leaves_of_the_masks(
    load_config: Callable[[str], DictConfig], tmp_path: Path
) -> None:
    cfg = load_config("coco/mask_rcnn_vit_adapter_base_mae_lsj_25ep")
    mapper = cfg.dataloader.train.mapper
    mapper.image_format, mapper.augmentations.size = "RGB", 64
    mapper = instantiate(mapper)
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(path)
    corner = [5, 5, 75, 5, 75, 10, 10, 10, 10, 55, 5, 55]  # an L along two sides of its box
    annotation = {
        "bbox": [5, 5, 75, 55],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "segmentation": [corner],
    }
    record = {"file_name": str(path), "height": 60, "width": 80, "annotations": [annotation]}
    np.random.seed(0)
    kept = [mapper(copy.deepcopy(record))["instances"] for _ in range(60)]
    assert {len(instances) for instances in kept} == {0, 1}  # some crops miss the object
    small = 0
    for instances in filter(len, kept):
        rows, columns = (torch.where(instances.gt_masks.tensor[0].any(dim))[0] for dim in (1, 0))
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert instances.gt_boxes.tensor[0].tolist() == box
        small += min(box[2] - box[0], box[3] - box[1]) < 0.3 * max(box[2] - box[0], box[3] - box[1])
    assert small > 0  # one arm of the L


def reduce(cfg: DictConfig) -> None:
    overrides = {
        "train_size": [128, 128],
        "backbone.bottom_up.vit.embed_dim": 48,
        "backbone.bottom_up.vit.num_heads": 3,
        "backbone.bottom_up.conv_inplane": 8,
        "backbone.bottom_up.deform_num_heads": 3,
        "backbone.bottom_up.norm": "BN",
        "backbone.norm": "BN",
        "backbone.out_channels": 16,
        "roi_heads.box_head.conv_dims": [16, 16],
        "roi_heads.box_head.conv_norm": "BN",
        "roi_heads.box_head.fc_dims": [32],
        "roi_heads.mask_head.conv_dims": [16, 16],
        "roi_heads.mask_head.conv_norm": "BN",
        "proposal_generator.post_nms_topk": [50, 50],
        "roi_heads.box_predictor.test_score_thresh": 0.0,
    }
    for key, value in overrides.items():
        OmegaConf.update(cfg.model, key, value, merge=False)


def test_training_step_and_prediction(load_config: Callable[[str], DictConfig]) -> None:
    torch.manual_seed(0)
    cfg = load_config("coco/mask_rcnn_vit_adapter_base_mae_lsj_25ep")
    reduce(cfg)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    instances = Instances((70, 100))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8, 48, 40]]))
    instances.gt_classes = torch.tensor([3])
    masks = torch.zeros(1, 70, 100, dtype=torch.bool)
    masks[0, 8:40, 8:48] = True
    instances.gt_masks = BitMasks(masks)
    empty = Instances((33, 20), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())
    empty.gt_masks = BitMasks(torch.zeros(0, 33, 20, dtype=torch.bool))
    images = [torch.randint(0, 256, (3, *size)).byte() for size in ((70, 100), (33, 20))]
    with EventStorage():
        losses = model(
            [
                {"image": images[0], "instances": instances},
                {"image": images[1], "instances": empty},
            ]
        )
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    optimizer.step()
    model.eval()
    with torch.no_grad():
        (prediction,) = model([{"image": images[0], "height": 35, "width": 50}])
    assert len(prediction["instances"]) > 0
    assert prediction["instances"].pred_masks.shape[1:] == (35, 50)
