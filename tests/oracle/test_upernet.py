"""UPerNet's heads against those of Hugging Face's transformers, with the same weights."""

import re

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from vit_adapter.segmentation import FCNHead, UPerNetHead

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
WIDTH, CHANNELS, CLASSES = 24, 16, 7
SHAPES = {name: ShapeSpec(channels=WIDTH, stride=stride) for name, stride in STRIDES.items()}


def randomise(module: nn.Module) -> None:
    """Let norms, biases and running statistics matter."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if name.endswith(("running_var", "batch_norm.weight")) else -0.5
            tensor.uniform_(low, low + 1)


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Load the weights of Hugging Face's head into ours."""
    renamed = {}
    for name, tensor in source.state_dict().items():
        name = re.sub(r"\.batch_norm\.", ".norm.", re.sub(r"\.conv\.weight$", ".weight", name))
        renamed[re.sub(r"^classifier\.", "conv_seg.", name)] = tensor
    target.load_state_dict(renamed)


@pytest.fixture
def features() -> dict[str, Tensor]:
    """Maps of an image of 96 x 160 pixels: no multiple of every pooling grid."""
    return {
        name: torch.randn(2, WIDTH, 96 // stride, 160 // stride, dtype=torch.float64)
        for name, stride in STRIDES.items()
    }


def make_pair(auxiliary: bool) -> tuple[nn.Module, nn.Module]:
    config = UperNetConfig(
        hidden_size=CHANNELS, num_labels=CLASSES, auxiliary_channels=CHANNELS, backbone_config=None
    )
    widths = [WIDTH] * 4
    if auxiliary:
        theirs = UperNetFCNHead(config, widths)
        shape = {"res4": SHAPES["res4"]}
        ours = FCNHead(shape, num_classes=CLASSES, channels=CHANNELS, norm="BN", dropout=0.0)
    else:
        theirs = UperNetHead(config, widths)
        ours = UPerNetHead(SHAPES, channels=CHANNELS, num_classes=CLASSES, norm="BN", dropout=0.0)
    randomise(theirs)
    copy_weights(theirs, ours)
    return ours.double(), theirs.double()


@pytest.mark.parametrize("auxiliary", [False, True], ids=["head", "auxiliary"])
def test_scores(features: dict[str, Tensor], auxiliary: bool) -> None:
    ours, theirs = (head.eval() for head in make_pair(auxiliary))
    expected = theirs(list(features.values()))
    torch.testing.assert_close(ours.conv_seg(ours.layers(features)), expected)


@pytest.mark.parametrize("auxiliary", [False, True], ids=["head", "auxiliary"])
def test_training_and_its_gradients(features: dict[str, Tensor], auxiliary: bool) -> None:
    ours, theirs = (head.train() for head in make_pair(auxiliary))
    for feature in features.values():
        feature.requires_grad_()
    used = [features["res4"]] if auxiliary else list(features.values())
    expected = theirs(list(features.values()))
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), used)
    scores = ours.conv_seg(ours.layers(features))
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(torch.autograd.grad((scores * weights).sum(), used), gradients)
