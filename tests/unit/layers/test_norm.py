"""Norm layers by name."""

import pytest
import torch
from torch import nn

from vit_adapter.layers import ChannelLayerNorm, build_norm


@pytest.mark.parametrize("name", ["BN", "SyncBN", "naiveSyncBN", "FrozenBN", "GN", ""])
def test_every_name_normalises_on_one_cpu_process(name: str) -> None:
    norm = build_norm(name, 32).train()
    features = torch.randn(2, 32, 3, 5)
    assert norm(features).shape == features.shape


def test_names_mean_what_they_say() -> None:
    assert type(build_norm("BN", 4)) is nn.BatchNorm2d
    assert type(build_norm("SyncBN", 4)) is nn.SyncBatchNorm
    assert type(build_norm("", 4)) is nn.Identity


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown norm 'batch'; expected one of BN, SyncBN"):
        build_norm("batch", 4)


def test_channel_layer_norm_normalises_every_position() -> None:
    features = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    norm = ChannelLayerNorm(8, eps=0.0).double()
    normed = norm(features)
    expected = (features - features.mean(1, keepdim=True)) / features.std(1, False, keepdim=True)
    torch.testing.assert_close(normed, expected)
