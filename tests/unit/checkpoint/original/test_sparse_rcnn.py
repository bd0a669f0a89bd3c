"""Names of Sparse R-CNN, there and back."""

import pytest
import torch

from vit_adapter.checkpoint.original import convert, revert

# The original's names and ours
STAGE = {
    "attention.attn.in_proj_weight": "attention.in_proj_weight",
    "attention.attn.in_proj_bias": "attention.in_proj_bias",
    "attention.attn.out_proj.bias": "attention.out_proj.bias",
    "attention_norm.bias": "attention_norm.bias",
    "instance_interactive_conv.dynamic_layer.bias": "dynamic_conv.kernels.bias",
    "instance_interactive_conv.norm_in.bias": "dynamic_conv.norm_in.bias",
    "instance_interactive_conv.norm_out.bias": "dynamic_conv.norm_out.bias",
    "instance_interactive_conv.fc_layer.bias": "dynamic_conv.fc.bias",
    "instance_interactive_conv.fc_norm.bias": "dynamic_conv.fc_norm.bias",
    "instance_interactive_conv_norm.bias": "dynamic_conv_norm.bias",
    "ffn.layers.0.0.bias": "ffn.0.bias",
    "ffn.layers.1.bias": "ffn.2.bias",
    "ffn_norm.bias": "ffn_norm.bias",
    "cls_fcs.0.weight": "cls_subnet.0.weight",
    "cls_fcs.1.bias": "cls_subnet.1.bias",
    "reg_fcs.6.weight": "bbox_subnet.6.weight",
    "fc_cls.bias": "cls_score.bias",
    "fc_reg.bias": "bbox_pred.bias",
}
NAMES = {
    "backbone.pos_embed": "backbone.bottom_up.vit.pos_embed",
    "neck.lateral_convs.0.conv.bias": "backbone.fpn_lateral5.bias",
    "neck.fpn_convs.0.conv.bias": "backbone.fpn_output5.bias",
    "rpn_head.init_proposal_bboxes.weight": "proposal_generator.boxes.weight",
    "rpn_head.init_proposal_features.weight": "proposal_generator.features.weight",
    **{
        f"roi_head.bbox_head.{stage}.{theirs}": f"roi_heads.stages.{stage}.{ours}"
        for stage in (0, 5)
        for theirs, ours in STAGE.items()
    },
}


def test_names_there_and_back() -> None:
    original = {name: torch.randn(2) for name in NAMES}
    conversion = convert(original)
    assert conversion.names == NAMES and not conversion.dropped
    back = revert(conversion.state_dict)
    assert back.names == {ours: theirs for theirs, ours in NAMES.items()}


def test_masks_are_refused_with_their_names() -> None:
    mask = "roi_head.mask_head.0.instance_interactive_conv.fc_norm.bias"
    with pytest.raises(ValueError, match="the stages of another detector .*mask_head"):
        convert({name: torch.randn(2) for name in [*NAMES, mask]})
