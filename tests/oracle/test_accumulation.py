"""Steps on accumulated gradients against a slow loop over single images.

The loop computes the gradients of a linear model and the optimizer's formulas by hand, in Python's
numbers (float64).
"""

import math

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.engine.precision import Precision
from vit_adapter.engine.trainer import Trainer

BATCH, STEPS, LR, DECAY = 6, 5, 0.05, 0.1
WEIGHTS = (0.5, -1.25)
IMAGES = [
    [(math.sin(1.0 + 7 * step + image), math.cos(3.0 * step - image)) for image in range(BATCH)]
    for step in range(STEPS)
]


class Linear(nn.Module):
    """The mean over images of (w . x - 1)^2, and of w . x as a second loss."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(WEIGHTS, dtype=dtype))

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        values = self.weight.new_tensor([inputs["image"] for inputs in batch])
        output = nn.functional.linear(values, self.weight[None])
        assert (output.dtype == torch.bfloat16) == torch.is_autocast_enabled("cpu")
        output = output.to(self.weight.dtype)
        return {"loss_square": (output - 1).square().mean(), "loss_linear": output.mean()}


def slow_gradients(weights: list[float], images: list[tuple[float, float]]) -> list[float]:
    gradients = [0.0, 0.0]
    for image in images:
        output = sum(weight * value for weight, value in zip(weights, image, strict=True))
        for index, value in enumerate(image):
            gradients[index] += (2 * (output - 1) + 1) * value / len(images)
    return gradients


def slow_sgd(momentum: float = 0.9) -> list[float]:
    weights, velocity = list(WEIGHTS), [0.0, 0.0]
    for images in IMAGES:
        for index, gradient in enumerate(slow_gradients(weights, images)):
            velocity[index] = momentum * velocity[index] + gradient + DECAY * weights[index]
        weights = [weight - LR * change for weight, change in zip(weights, velocity, strict=True)]
    return weights


def slow_adamw(betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> list[float]:
    weights, first, second = list(WEIGHTS), [0.0, 0.0], [0.0, 0.0]
    for step, images in enumerate(IMAGES, start=1):
        for index, gradient in enumerate(slow_gradients(weights, images)):
            first[index] = betas[0] * first[index] + (1 - betas[0]) * gradient
            second[index] = betas[1] * second[index] + (1 - betas[1]) * gradient**2
        for index in range(2):
            mean = first[index] / (1 - betas[0] ** step)
            spread = math.sqrt(second[index] / (1 - betas[1] ** step))
            weights[index] *= 1 - LR * DECAY
            weights[index] -= LR * mean / (spread + eps)
    return weights


def train(kind: str, accumulate: int, *, scale: float | None = None, amp: bool = False) -> Tensor:
    model = Linear(torch.float32 if amp else torch.float64)  # autocast leaves float64 as it is
    options = {"lr": LR, "weight_decay": DECAY}
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, **options)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **options)
    precision = Precision(enabled=amp, dtype="bfloat16", device_type="cpu")
    if scale is not None:
        precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    trainer = Trainer(model=model, optimizer=optimizer, precision=precision, accumulate=accumulate)
    trainer.data_loader = [[{"image": image} for image in images] for images in IMAGES]
    trainer.train(0, STEPS)
    if scale is not None:  # doubled after every second step, not after every second micro-batch
        assert precision.scaler.get_scale() == scale * 2 ** (STEPS // 2)
    return model.weight.detach().double()


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 6])
@pytest.mark.parametrize(("kind", "slow"), [("sgd", slow_sgd), ("adamw", slow_adamw)])
def test_accumulated_steps(kind: str, slow: object, accumulate: int, scale: float | None) -> None:
    expected = torch.tensor(slow(), dtype=torch.float64)
    found = train(kind, accumulate, scale=scale)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_accumulated_steps_in_bfloat16() -> None:
    """Autocast rounds each product to bfloat16, with a relative error of 2^-9."""
    expected = torch.tensor(slow_sgd(), dtype=torch.float64)
    found = train("sgd", accumulate=3, amp=True)
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.03)
