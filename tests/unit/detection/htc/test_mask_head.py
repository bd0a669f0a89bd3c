"""Mask heads with information flow."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from torch import nn

from vit_adapter.detection.htc import FlowMaskHead, mask_features


def make(channels: int = 4, num_classes: int = 3) -> nn.ModuleList:
    return nn.ModuleList(
        FlowMaskHead(
            input_shape=ShapeSpec(channels=channels),
            has_predecessor=stage > 0,
            num_classes=num_classes,
            conv_dims=[channels] * 5,
        )
        for stage in range(3)
    )


def test_have_the_parameters_of_the_published_models() -> None:
    with torch.device("meta"):
        heads = make(256, num_classes=80)
    assert sum(param.numel() for param in heads.parameters()) == 8_061_424


def test_a_first_head_is_detectron2s() -> None:
    head = make()[0]
    theirs = MaskRCNNConvUpsampleHead(
        input_shape=ShapeSpec(channels=4), num_classes=3, conv_dims=[4] * 5
    )
    theirs.load_state_dict(head.state_dict())
    features = torch.randn(2, 4, 6, 6)
    assert torch.equal(head.layers(mask_features([head], features)[0]), theirs.layers(features))


def test_gradients_reach_the_stages_before_but_not_their_predictions() -> None:
    heads = make()
    heads[1].layers(mask_features(heads[:2], torch.randn(2, 4, 6, 6))[-1]).sum().backward()
    assert heads[0].mask_fcn1.weight.grad.any() and heads[1].conv_res.weight.grad.any()
    assert heads[0].predictor.weight.grad is None and heads[2].mask_fcn1.weight.grad is None


def test_no_boxes() -> None:
    heads = make()
    features = mask_features(heads, torch.zeros(0, 4, 6, 6))
    assert heads[2].layers(features[2]).shape == (0, 3, 12, 12)


def test_widths_that_cannot_be_added_are_an_error() -> None:
    options = dict(has_predecessor=False, num_classes=3, conv_dims=[8, 8, 4])
    with pytest.raises(ValueError, match="conv_dims gives 8 channels .* expected the 4 of"):
        FlowMaskHead(input_shape=ShapeSpec(channels=4), **options)
