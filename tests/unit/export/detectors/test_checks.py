"""Detectors that cannot be exported are refused in words."""

import re

import pytest
from detector_families import build
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn

from vit_adapter.export.detectors import exportable_detector


def expect_refusal(model: nn.Module, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        exportable_detector(model)


def test_unknown_detector() -> None:
    expect_refusal(build("set"), "the detector: it is a SetDetector, expected one of ATSS, GFL")


def test_subclass_of_a_part() -> None:
    model = build("cascade")

    class Other(FastRCNNOutputLayers):
        pass

    model.roi_heads.box_predictor[1].__class__ = Other
    expect_refusal(model, "roi_heads.box_predictor of the model: it is a Other")


def test_unknown_heads() -> None:
    model = build("mask_rcnn")
    model.roi_heads = nn.Identity()
    expect_refusal(model, "roi_heads of the model: it is a Identity")


def test_proposals_of_another_family() -> None:
    model = build("mask_rcnn")
    model.proposal_generator = build("sparse").proposal_generator
    expect_refusal(model, "proposal_generator of the model: it is a LearnedProposals")


def test_keypoints() -> None:
    model = build("mask_rcnn")
    model.roi_heads.keypoint_on = True
    expect_refusal(model, "keypoints")


@pytest.mark.parametrize("family", ["mask_rcnn", "cascade", "gfl"])
def test_no_limit_of_detections(family: str) -> None:
    model = build(family)
    for module in model.modules():
        for name in {"test_topk_per_image", "max_detections_per_image"} & vars(module).keys():
            setattr(module, name, -1)
    expect_refusal(model, "is -1, which means no limit")
