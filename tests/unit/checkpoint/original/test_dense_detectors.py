"""Names of ATSS and GFL, there and back."""

import pytest
import torch

from vit_adapter.checkpoint.original import convert, revert

SHARED = {
    "backbone.pos_embed": "backbone.bottom_up.vit.pos_embed",
    "neck.lateral_convs.0.conv.bias": "backbone.fpn_lateral3.bias",
    "neck.lateral_convs.1.conv.bias": "backbone.fpn_lateral4.bias",
    "neck.lateral_convs.2.conv.bias": "backbone.fpn_lateral5.bias",
    "neck.fpn_convs.2.conv.weight": "backbone.fpn_output5.weight",
    "neck.fpn_convs.3.conv.weight": "backbone.top_block.p6.weight",
    "neck.fpn_convs.4.conv.weight": "backbone.top_block.p7.weight",
    "bbox_head.cls_convs.0.conv.weight": "head.cls_subnet.0.weight",
    "bbox_head.cls_convs.0.gn.weight": "head.cls_subnet.1.weight",
    "bbox_head.cls_convs.3.gn.bias": "head.cls_subnet.10.bias",
    "bbox_head.reg_convs.3.conv.weight": "head.bbox_subnet.9.weight",
    "bbox_head.scales.4.scale": "head.scales.4",
}
PREDICTORS = {
    "atss": {
        "bbox_head.atss_cls.bias": "head.cls_score.bias",
        "bbox_head.atss_reg.bias": "head.bbox_pred.bias",
        "bbox_head.atss_centerness.bias": "head.ctrness.bias",
    },
    "gfl": {
        "bbox_head.gfl_cls.bias": "head.cls_score.bias",
        "bbox_head.gfl_reg.bias": "head.bbox_pred.bias",
        "bbox_head.integral.project": "head.integral.project",
    },
}


@pytest.mark.parametrize("kind", PREDICTORS)
def test_names(kind: str) -> None:
    expected = SHARED | PREDICTORS[kind]
    original = {name: torch.randn(2) for name in expected}
    conversion = convert(original)
    assert conversion.names == expected and not conversion.dropped
    back = revert(conversion.state_dict)
    assert back.names == {ours: theirs for theirs, ours in expected.items()}


def test_another_head_is_refused_with_its_names() -> None:
    names = ["bbox_head.atss_cls.bias", "bbox_head.fused_cls.bias"]
    with pytest.raises(ValueError, match=r"another one-stage head.*bbox_head\.fused_cls\.bias"):
        convert({name: torch.zeros(1) for name in names})
