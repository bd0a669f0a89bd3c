"""The adapters' features, and what they are made of."""

import torch
from case_files import Case, check
from dino_cases.models import build
from dino_cases.reader import reads, record_inputs, record_outputs
from torch import Tensor

FEATURES = ("res2", "res3", "res4", "res5")  # f1, f2, f3, f4


def check_features(case: Case, features: dict[str, Tensor]) -> None:
    expected = case.numbered("f", first=1)
    assert len(expected) == len(FEATURES)
    for name, value in zip(FEATURES, expected, strict=True):
        check(features[name], value)


@reads("dinov3_case_*", "tap*", "cls*", "prior_*", "f?")
@torch.no_grad()
def test_dinov3_backbone(case: Case) -> None:
    backbone = build("dinov3").backbone
    inputs = [record_inputs(interaction) for interaction in backbone.interactions]
    outputs = [record_outputs(interaction) for interaction in backbone.interactions]
    images = case["image"]
    check_features(case, backbone(images))
    taps = case.numbered("tap")
    assert len(taps) == len(inputs)
    for calls, expected in zip(inputs, taps, strict=True):
        (arguments,) = calls
        check(arguments[0], expected)
    check(inputs[0][0][1], case["prior_in"])
    last = len(taps) - 1
    check(outputs[last][0][1], case[f"prior_out{last}"])
    tokens, _ = backbone.vit(images)
    check(backbone.vit.normalise(tokens)[:, 0], case[f"cls{last}"])


@reads("dinov2_case_*", "tokens_in*", "cls*", "injected*", "tap*", "prior_*", "f?")
@torch.no_grad()
def test_dinov2_backbone(case: Case) -> None:
    backbone = build("dinov2").backbone
    inputs = [record_inputs(interaction) for interaction in backbone.interactions]
    outputs = [record_outputs(interaction) for interaction in backbone.interactions]
    injected = record_outputs(backbone.interactions[0].injector)
    prefix = backbone.vit.num_prefix_tokens
    check_features(case, backbone(case["image"]))
    tokens, prior_tokens = inputs[0][0][:2]
    check(tokens[:, prefix:], case["tokens_in0"])
    check(tokens[:, :prefix], case["cls_in0"])
    check(prior_tokens, case["prior_in"])
    check(injected[0], case["injected0"])
    taps = case.numbered("tap")
    assert len(taps) == len(outputs)
    for results, expected in zip(outputs, taps, strict=True):
        check(results[0][0][:, prefix:], expected)
    last = len(taps) - 1
    check(outputs[last][0][0][:, :prefix], case[f"cls{last}"])
    check(outputs[last][0][1], case[f"prior_out{last}"])
