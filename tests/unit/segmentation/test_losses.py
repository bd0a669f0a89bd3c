"""The per-pixel loss against the definition of cross entropy, pixel by pixel."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vit_adapter.segmentation import pixel_cross_entropy

IGNORED = 255


def slow_sum(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    """Sum of -log(softmax) over the valid pixels, and their number; scores at the labels' size."""
    total, valid = 0.0, 0
    for image, labels in zip(logits.tolist(), targets.tolist(), strict=True):
        for y, row in enumerate(labels):
            for x, label in enumerate(row):
                if label == IGNORED:
                    continue
                scores = [plane[y][x] for plane in image]
                total += math.log(sum(map(math.exp, scores))) - scores[label]
                valid += 1
    return total, valid


@pytest.fixture
def targets() -> Tensor:
    targets = torch.randint(0, 4, (2, 6, 8))
    targets[0, :3] = IGNORED
    return targets


@pytest.mark.parametrize("average", ["all", "valid"])
def test_equals_the_definition(targets: Tensor, average: str) -> None:
    logits = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    total, valid = slow_sum(logits, targets)
    expected = total / (targets.numel() if average == "all" else valid)
    loss = pixel_cross_entropy(logits, targets, average=average)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_scores_are_resized_to_the_labels(targets: Tensor) -> None:
    logits = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    large = F.interpolate(logits, size=(6, 8), mode="bilinear", align_corners=False)
    total, _ = slow_sum(large, targets)
    assert pixel_cross_entropy(logits, targets).item() == pytest.approx(total / targets.numel())


@pytest.mark.parametrize("average", ["all", "valid"])
def test_all_pixels_ignored_is_zero_with_zero_gradient(average: str) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 4, 4), IGNORED), average=average)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_is_computed_in_float32(targets: Tensor) -> None:
    logits = torch.randn(2, 4, 6, 8).bfloat16()
    loss = pixel_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pixel_cross_entropy(logits.float(), targets).item()


def test_another_ignore_value(targets: Tensor) -> None:
    logits = torch.randn(2, 4, 6, 8)
    other = torch.where(targets == IGNORED, -1, targets)
    expected = pixel_cross_entropy(logits, targets)
    assert torch.equal(pixel_cross_entropy(logits, other, ignore_value=-1), expected)


@pytest.mark.parametrize(
    ("logits", "labels", "average", "message"),
    [
        ((2, 4, 6, 8), (2, 6, 8), "mean", "average must be one of .*, got 'mean'"),
        ((2, 4, 6, 8), (6, 8), "all", r"got \(2, 4, 6, 8\) and \(6, 8\)"),
        ((1, 4, 6, 8), (2, 6, 8), "all", r"got \(1, 4, 6, 8\) and \(2, 6, 8\)"),
    ],
)
def test_arguments_that_do_not_fit(
    logits: tuple, labels: tuple, average: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pixel_cross_entropy(torch.zeros(logits), torch.zeros(labels).long(), average=average)
