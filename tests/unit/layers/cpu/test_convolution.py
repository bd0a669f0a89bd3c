"""Where channels-last maps train slowly, convolutions get contiguous ones with the same numbers."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.backbone import ViTAdapter
from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.layers import ChannelLayerNorm, to_fast_layout
from vit_adapter.ops import cpu_fast_paths


@pytest.fixture(params=[True, False], ids=["AVX2", "AVX-512"])
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether the processor trains slowly on channels-last maps."""
    cpu_fast_paths._find_obstacle.cache_clear()
    monkeypatch.setattr(cpu_fast_paths, "channels_last_trains_slowly", lambda: request.param)
    yield request.param
    cpu_fast_paths._find_obstacle.cache_clear()


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def test_makes_maps_contiguous_in_training_alone(slow: bool) -> None:
    features = channels_last(2, 3, 4, 5)
    assert to_fast_layout(features).is_contiguous() == slow
    assert torch.equal(to_fast_layout(features), features)
    assert ChannelLayerNorm(3)(features).is_contiguous() == slow
    with torch.no_grad():
        assert to_fast_layout(features) is features
    assert to_fast_layout(features.double()).dtype == torch.float64


def test_stem_and_outputs_of_a_backbone(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vit = PlainViT(img_size=32, patch_size=16, embed_dim=24, depth=4, num_heads=2)
    groups = [(0, 0), (1, 1), (2, 2), (3, 3)]
    model = ViTAdapter(vit, interaction_indexes=groups, conv_inplane=16, deform_num_heads=2)
    convolved = []
    for layer in model.spm.stem:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, args, output: convolved.append(args[0]))
    images = torch.randn(1, 3, 64, 64)

    def train() -> tuple[list[Tensor], list[Tensor]]:
        outputs = list(model(images).values())
        loss = sum(features.square().mean() for features in outputs)
        return outputs, list(torch.autograd.grad(loss, model.parameters(), allow_unused=True))

    outputs, gradients = train()
    assert [features.is_contiguous() for features in convolved] == [slow] * 3
    assert [features.is_contiguous() for features in outputs] == [slow] * 4
    monkeypatch.setenv(cpu_fast_paths.SWITCH, "0")
    torch.testing.assert_close((outputs, gradients), train(), rtol=1e-3, atol=1e-4)
