"""Names of Cascade Mask R-CNN, there and back."""

import pytest
import torch

from vit_adapter.checkpoint.original import convert, revert
from vit_adapter.checkpoint.original.layouts import layout_of_ours, layout_of_theirs

# The original's names and ours
NAMES = {
    "backbone.pos_embed": "backbone.bottom_up.vit.pos_embed",
    "neck.lateral_convs.0.conv.bias": "backbone.fpn_lateral5.bias",
    "rpn_head.rpn_conv.weight": "proposal_generator.rpn_head.conv.weight",
    "roi_head.bbox_head.0.shared_convs.3.bn.bias": "roi_heads.box_head.0.conv4.norm.bias",
    "roi_head.bbox_head.1.shared_fcs.0.bias": "roi_heads.box_head.1.fc1.bias",
    "roi_head.bbox_head.2.fc_cls.bias": "roi_heads.box_predictor.2.cls_score.bias",
    "roi_head.bbox_head.0.fc_reg.weight": "roi_heads.box_predictor.0.bbox_pred.weight",
    "roi_head.mask_head.2.convs.0.conv.weight": "roi_heads.mask_head.2.mask_fcn1.weight",
    "roi_head.mask_head.1.upsample.bias": "roi_heads.mask_head.1.deconv.bias",
    "roi_head.mask_head.1.conv_logits.bias": "roi_heads.mask_head.1.predictor.bias",
}


def test_names_there_and_back() -> None:
    original = {name: torch.randn(2) for name in NAMES}
    assert layout_of_theirs(original).name == "Cascade Mask R-CNN with FPN"
    converted = convert(original)
    assert converted.names == NAMES
    assert layout_of_ours(converted.state_dict).name == "Cascade Mask R-CNN with FPN"
    assert revert(converted.state_dict).state_dict == original


def test_stages_with_other_parts_are_refused() -> None:
    names = [*NAMES, "roi_head.bbox_head.1.cls_fcs.0.weight"]
    with pytest.raises(ValueError, match="the stages of another detector .*cls_fcs"):
        convert({name: torch.randn(2) for name in names})
