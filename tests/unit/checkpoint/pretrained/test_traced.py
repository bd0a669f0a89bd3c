"""Tensors that remember where they come from."""

import torch
import torch.nn.functional as F

from vit_adapter.checkpoint.pretrained.traced import TracedTensor


def test_names_are_passed_on() -> None:
    named = TracedTensor.name_all({"a": torch.ones(2, 3), "b": torch.zeros(2, 3)})
    a, b = named["a"], named["b"]
    joined = torch.cat([a, b[:1]])
    assert (joined.sources, joined.resampled) == ({"a", "b"}, False)
    first, second = a.T.chunk(2, dim=1)
    assert first.sources == second.sources == {"a"}
    assert (b + 1).permute(1, 0)[None].reshape(-1).sources == {"b"}
    assert torch.zeros(1).add(a).sources == {"a"}


def test_resampling_is_recorded() -> None:
    weight = TracedTensor.name_all({"a": torch.ones(1, 1, 4)})["a"]
    resized = F.interpolate(weight, size=8, mode="linear")
    assert (resized.sources, resized.resampled) == ({"a"}, True)
    assert resized[0].contiguous().resampled
    assert (weight @ torch.ones(4, 2)).resampled
    assert not weight.float().double().resampled


def test_nothing_is_copied() -> None:
    weight = torch.ones(3)
    plain = TracedTensor.name_all({"a": weight})["a"].plain()
    assert type(plain) is torch.Tensor
    assert plain.data_ptr() == weight.data_ptr()
