"""What stays in float32 when a model is converted to 16 bits."""

import pytest
import torch
from torch import nn

from vit_adapter.layers.converted import Float32Statistics, in_dtype_of_weights

MEAN, STD = 70000.3, 31.7  # the mean is infinite in float16


class _Model(Float32Statistics):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor([MEAN]), False)
        self.register_buffer("pixel_std", torch.tensor([STD]), False)
        self.register_buffer("other", torch.tensor([MEAN]))
        self.layer = nn.Linear(2, 2)

    def statistics(self) -> torch.Tensor:
        return torch.cat([self.pixel_mean, self.pixel_std])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_stay_in_float32(dtype: torch.dtype) -> None:
    model = _Model()
    assert model.to(dtype) is model
    assert {p.dtype for p in model.parameters()} == {dtype} == {model.other.dtype}
    assert torch.equal(model.statistics(), torch.tensor([MEAN, STD]))
    assert torch.equal(model.float().statistics(), torch.tensor([MEAN, STD]))
    assert set(model.state_dict()) == {"other", "layer.weight", "layer.bias"}


def test_statistics_move_and_widen_with_the_model() -> None:
    model = _Model().double()
    assert model.statistics().dtype == torch.float64
    assert model.half().statistics().dtype == torch.float32
    moved = model.to("meta", torch.bfloat16)
    assert (moved.pixel_mean.device.type, moved.pixel_mean.dtype) == ("meta", torch.float32)


def test_whole_numbers_stay_whole() -> None:
    model = _Model()
    model.pixel_mean = torch.tensor([70001])
    assert model.half().pixel_mean.tolist() == [70001]


def test_images_follow_weights_in_16_bits() -> None:
    layer, images = nn.Linear(2, 2), torch.rand(1, 3, 4, 4)
    assert in_dtype_of_weights(images, layer) is images
    assert in_dtype_of_weights(images, nn.Identity()) is images
    assert in_dtype_of_weights(images.double(), layer).dtype == torch.float64
    assert in_dtype_of_weights(images, layer.half()).dtype == torch.float16
