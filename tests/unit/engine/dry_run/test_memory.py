"""Memory and operations of a step, counted by hand for small models."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_adapter.engine.dry_run.memory import StepCost, count_step
from vit_adapter.engine.precision import Precision
from vit_adapter.ops import ms_deform_attn

PIXELS = 1000
FLOAT = 4  # bytes


class Model(nn.Module):
    """Squares the images times a weight, by way of a large tensor that nothing keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(PIXELS))
        self.fixed = nn.Parameter(torch.ones(50), requires_grad=False)

    def forward(self, batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        images = torch.stack([inputs["image"] for inputs in batch])
        with torch.no_grad():
            images.repeat(10, 1)
        return {"loss": (images * self.weight).square().sum()}


def measure(model: nn.Module, images: int) -> StepCost:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.1, foreach=False)
    batch = [{"image": torch.ones(PIXELS)} for _ in range(images)]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # makes its state
    precision = Precision(enabled=False, dtype="bfloat16", device_type="cpu")
    return count_step(model, optimizer, precision, batch)


def test_counts_every_part_of_a_step() -> None:
    cost = measure(Model(), images=3)
    image = PIXELS * FLOAT
    assert cost.images == 3
    assert cost.weights == image + 50 * FLOAT
    assert cost.gradients == image
    assert cost.optimizer == 2 * image + FLOAT  # two moments and the number of steps
    assert cost.saved == 2 * 3 * image  # the images for the weight, their product for the square
    assert cost.forward_peak == 3 * image + 30 * image  # the images and their copies
    assert cost.peak == cost.forward_peak  # less is in use afterwards


def test_gradients_count_where_the_peak_is_behind_the_forward_pass() -> None:
    model = Model()
    model.forward = lambda batch: {"loss": sum(i["image"] @ model.weight for i in batch)}
    cost = measure(model, images=1)
    assert cost.forward_peak < PIXELS * FLOAT
    # The gradient of the weight, and what Adam computes of it.
    assert cost.peak >= 2 * PIXELS * FLOAT


class Attention(nn.Module):
    """A product, attention, and the operator: what PyTorch knows and what it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16, 16))

    def forward(self, batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        tokens = torch.ones(1, 25, 16) @ self.weight
        heads = tokens.view(1, 25, 2, 8)
        attended = F.scaled_dot_product_attention(*[heads.transpose(1, 2)] * 3)
        locations = torch.full((1, 7, 2, 1, 4, 2), 0.5)
        sampled = ms_deform_attn(heads, ((5, 5),), locations, torch.full((1, 7, 2, 1, 4), 0.25))
        return {"loss": attended.sum() + sampled.sum()}


def test_counts_operations_that_pytorch_does_not_know() -> None:
    cost = measure(Attention(), images=1)
    product = 2 * 25 * 16 * 16
    attention = 2 * 2 * (2 * 25 * 25 * 8)  # two products for each of two heads
    operator = 7 * 2 * 4 * 8 * 10  # queries, heads, points, channels
    assert cost.flops == product + attention + operator


COST = StepCost(
    images=2, weights=100, gradients=40, optimizer=200, saved=60, forward_peak=80, peak=90, flops=0
)


@pytest.mark.parametrize(
    ("images", "total"), [(2, 390), (3, 430), (1, 350), (4, 470)], ids=lambda value: str(value)
)
def test_each_image_adds_its_share(images: int, total: int) -> None:
    assert COST.total(images) == total
    assert COST.total(images, kept_gradients=7) == total + 7


def test_gradients_are_the_least() -> None:
    large = StepCost(**{**COST.__dict__, "gradients": 1000})
    assert large.total(1) == large.total(2) == 1300


@pytest.mark.parametrize(("available", "images"), [(349, 0), (350, 1), (470, 4), (509, 4)])
def test_largest_batch_that_fits(available: int, images: int) -> None:
    assert COST.fitting(available) == images
    assert images == 0 or COST.total(images) <= available < COST.total(images + 1)
