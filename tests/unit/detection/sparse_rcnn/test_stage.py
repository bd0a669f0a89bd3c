"""A stage of Sparse R-CNN against its equations, written as loops over proposals."""

import math

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.detection import InteractionStage
from vit_adapter.detection.sparse_rcnn import DynamicConv

CHANNELS, CLASSES, SIDE, HIDDEN, HEADS = 8, 5, 3, 4, 2


@pytest.fixture
def stage() -> InteractionStage:
    torch.manual_seed(0)
    stage = InteractionStage(
        channels=CHANNELS,
        num_classes=CLASSES,
        pool_size=SIDE,
        num_heads=HEADS,
        dynamic_channels=HIDDEN,
        ffn_channels=16,
        num_box_layers=2,
    ).double()
    for parameter in stage.parameters():  # biases and norms that are not 0 and 1
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return stage


def relu(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, torch.zeros_like(values))


def normalised(values: Tensor, norm: nn.LayerNorm) -> Tensor:
    centered = values - values.mean()
    variance = centered.square().mean()
    return centered / (variance + 1e-5).sqrt() * norm.weight + norm.bias


def attend(features: Tensor, attention: nn.MultiheadAttention) -> Tensor:
    """What each proposal of one image (P, C) reads from all of them."""
    kinds = zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
    query, key, value = (features @ weight.T + bias for weight, bias in kinds)
    width = CHANNELS // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / math.sqrt(width)
        heads.append(scores.softmax(-1) @ value[:, part])
    out = attention.out_proj
    return torch.cat(heads, dim=1) @ out.weight.T + out.bias


def convolve(feature: Tensor, region: Tensor, conv: DynamicConv) -> Tensor:
    """Filter one region (C, S, S) with the kernels that one proposal (C) makes."""
    parameters = conv.kernels.weight @ feature + conv.kernels.bias
    into = parameters[: CHANNELS * HIDDEN].view(CHANNELS, HIDDEN)
    out = parameters[CHANNELS * HIDDEN :].view(HIDDEN, CHANNELS)
    pixels = []
    for row in range(SIDE):
        for column in range(SIDE):
            hidden = torch.einsum("c,cf->f", region[:, row, column], into)
            hidden = relu(normalised(hidden, conv.norm_in))
            filtered = torch.einsum("f,fc->c", hidden, out)
            pixels.append(relu(normalised(filtered, conv.norm_out)))
    flat = torch.cat(pixels)  # pixel by pixel, with the channels of each together
    return relu(normalised(conv.fc.weight @ flat + conv.fc.bias, conv.fc_norm))


def predict(feature: Tensor, branch: nn.Sequential, last: nn.Linear) -> Tensor:
    for i in range(0, len(branch), 3):
        assert branch[i].bias is None
        feature = relu(normalised(branch[i].weight @ feature, branch[i + 1]))
    return last.weight @ feature + last.bias


def test_equals_the_equations(stage: InteractionStage) -> None:
    batch, count = 2, 3
    proposals = torch.randn(batch, count, CHANNELS, dtype=torch.float64)
    regions = torch.randn(batch * count, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    logits, deltas, features = stage(regions, proposals)
    assert logits.shape == (batch, count, CLASSES) and deltas.shape == (batch, count, 4)
    for image in range(batch):
        attended = attend(proposals[image], stage.attention)
        for index in range(count):
            feature = normalised(proposals[image, index] + attended[index], stage.attention_norm)
            filtered = convolve(feature, regions[image * count + index], stage.dynamic_conv)
            feature = normalised(feature + filtered, stage.dynamic_conv_norm)
            hidden = relu(stage.ffn[0].weight @ feature + stage.ffn[0].bias)
            feature = feature + stage.ffn[2].weight @ hidden + stage.ffn[2].bias
            feature = normalised(feature, stage.ffn_norm)
            torch.testing.assert_close(features[image, index], feature)
            expected = predict(feature, stage.cls_subnet, stage.cls_score)
            torch.testing.assert_close(logits[image, index], expected)
            expected = predict(feature, stage.bbox_subnet, stage.bbox_pred)
            torch.testing.assert_close(deltas[image, index], expected)


def test_initial_weights() -> None:
    """Xavier's uniform distribution: its bound is that of the largest value of many."""
    torch.manual_seed(0)
    stage = InteractionStage(channels=64, num_classes=3, prior_prob=0.02)
    matrices = [p for p in stage.parameters() if p.ndim > 1]
    assert len(matrices) == 2 + 2 + 2 + 4 + 2
    for weight in matrices:
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.9 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    torch.testing.assert_close(stage.cls_score.bias.sigmoid(), torch.full((3,), 0.02))
    assert not stage.bbox_pred.bias.any() and not stage.attention.in_proj_bias.any()
    norms = [module for module in stage.modules() if isinstance(module, nn.LayerNorm)]
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)
