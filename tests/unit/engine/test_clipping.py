"""Clipping gradients by their norm."""

import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.clipping import GradientClipping


def clip(gradients: list[list[float]], max_norm: float) -> list[list[float]]:
    trainer = TrainerBase()
    trainer.model = nn.ParameterList(torch.zeros(len(values)) for values in gradients)
    trainer.model.append(nn.Parameter(torch.zeros(1), requires_grad=False))
    for parameter, values in zip(trainer.model, gradients, strict=False):
        parameter.grad = torch.tensor(values)
    hook = GradientClipping(max_norm)
    trainer.register_hooks([hook])
    hook.after_backward()
    return [parameter.grad.tolist() for parameter in list(trainer.model)[:-1]]


def test_the_norm_is_that_of_all_parameters_together() -> None:
    """Gradients (3, 0) and (4) have a norm of 5."""
    clipped = clip([[3.0, 0.0], [4.0]], max_norm=1)
    assert clipped[0] == pytest.approx([0.6, 0.0], rel=1e-5)
    assert clipped[1] == pytest.approx([0.8], rel=1e-5)


def test_small_gradients_stay_as_they_are() -> None:
    assert clip([[3.0, 0.0], [4.0]], max_norm=5.5) == [[3.0, 0.0], [4.0]]


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "1", [1]])
def test_refuses_what_is_not_a_positive_number(bad: object) -> None:
    with pytest.raises(UsageError, match=r"train\.clip_grad_norm must be a positive number"):
        GradientClipping(bad)
