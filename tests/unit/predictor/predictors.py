"""What the tests of the predictor share."""

import torch

NAME = "quick_start/mask_rcnn_vit_adapter_shapes"
CPU = ["train.device=cpu"]
# All random boxes count, so that an untrained model has predictions.
OVERRIDES = [*CPU, "model.roi_heads.box_predictor.test_score_thresh=0.0"]


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    assert found.image_size == expected.image_size
    for field in ("scores", "pred_classes", "pred_masks"):
        assert torch.equal(found.get(field), expected.get(field))
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
