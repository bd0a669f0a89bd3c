"""The numbers of the Cascade Mask R-CNN configs."""

from collections.abc import Callable

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter import model_zoo

DROP_PATH = {
    "coco/cascade_mask_rcnn_vit_adapter_small_deit_3x": 0.2,
    "coco/cascade_mask_rcnn_vit_adapter_base_deit_3x": 0.3,
    "coco/cascade_mask_rcnn_vit_small_deit_3x": 0.1,
    "coco/cascade_mask_rcnn_vit_base_deit_3x": 0.2,
}


@pytest.mark.parametrize("name", DROP_PATH)
def test_differs_from_mask_rcnn_only_in_its_heads(
    name: str, load_config: Callable[[str], DictConfig]
) -> None:
    cascade = load_config(name)
    mask_rcnn = load_config(name.replace("cascade_", ""))
    assert cascade.model.backbone.bottom_up.vit.drop_path_rate == DROP_PATH[name]
    assert cascade.dataloader.train.mapper.instance_mask_format == "bitmask"
    mask_rcnn.model.backbone.bottom_up.vit.drop_path_rate = DROP_PATH[name]
    for key in ("proposal_generator", "roi_heads"):
        del cascade.model[key], mask_rcnn.model[key]
    assert cascade == mask_rcnn


def test_heads_are_those_of_the_original() -> None:
    with torch.device("meta"):
        model = instantiate(model_zoo.get_config(next(iter(DROP_PATH))).model)
    rpn, heads = model.proposal_generator, model.roi_heads
    assert (rpn.pre_nms_topk, rpn.post_nms_topk) == (
        {True: 2000, False: 1000},
        {True: 2000, False: 1000},
    )
    assert (rpn.anchor_boundary_thresh, rpn.smooth_l1_beta) == (0.0, 1 / 9)
    assert (rpn.batch_size_per_image, rpn.positive_fraction, rpn.nms_thresh) == (256, 0.5, 0.7)
    assert (heads.batch_size_per_image, heads.positive_fraction) == (512, 0.25)
    assert heads.stage_weights == [1.0, 0.5, 0.25]
    assert [(a.positive, a.low_quality) for a in heads.assigners] == [
        (0.5, False),
        (0.6, False),
        (0.7, False),
    ]
    for predictor in heads.box_predictor:
        assert predictor.loss_weight == {"loss_box_reg": 10.0}
        thresholds = (predictor.test_score_thresh, predictor.test_nms_thresh)
        assert (*thresholds, predictor.test_topk_per_image) == (0.05, 0.5, 100)
    assert isinstance(heads.box_head[0].conv1.norm, torch.nn.SyncBatchNorm)
