"""Clipping gradients by their norm."""

import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import load_config
from vit_adapter.engine.clipping import GradientClipping, clipping_hooks
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.trainer import Trainer

GRADIENTS = [[3.0, 0.0], [4.0]]
MICRO_BATCHES = 2


class Model(nn.Module):
    """Its loss has given gradients; some are far smaller in the first micro-batch."""

    def __init__(self, gradients: list[list[float]]) -> None:
        super().__init__()
        self.gradients = [torch.tensor(values) for values in gradients]
        self.weights = nn.ParameterList(torch.zeros_like(values) for values in self.gradients)
        self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, batch: list[dict[str, float]]) -> dict[str, Tensor]:
        pairs = zip(self.weights, self.gradients, strict=True)
        return {
            "loss": sum((weight * values).sum() for weight, values in pairs) * batch[0]["factor"]
        }


def clip(
    gradients: list[list[float]], *, scale: float | None = None, **params: float
) -> list[list[float]]:
    """Return the gradients that the optimizer used: minus the weights after SGD's step of 1."""
    model = Model(gradients)
    precision = Precision(enabled=False, dtype="float16", device_type="cpu")
    if scale is not None:
        precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer = Trainer(
        model=model,
        optimizer=torch.optim.SGD(model.weights.parameters(), lr=1.0),
        precision=precision,
        accumulate=MICRO_BATCHES,
    )
    trainer.data_loader = [[{"factor": 0.5}, {"factor": 1.5}]]  # of mean 1
    options = {"enabled": True, "params": params}
    trainer.register_hooks(clipping_hooks(OmegaConf.create({"train": {"clip_grad": options}})))
    trainer.train(0, 1)
    norm = torch.cat([values for values in model.gradients]).norm(p=params.get("norm_type", 2))
    assert trainer.storage.latest()["grad_norm"] == (pytest.approx(norm.item()), 0)
    return [(-weight.detach()).tolist() for weight in model.weights]


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_the_norm_is_that_of_all_parameters_together(scale: float | None) -> None:
    """Gradients (3, 0) and (4) have a norm of 5, and are 1,024 times larger with a loss scale."""
    clipped = clip(GRADIENTS, max_norm=1, scale=scale)
    assert clipped[0] == pytest.approx([0.6, 0.0], rel=1e-5)
    assert clipped[1] == pytest.approx([0.8], rel=1e-5)


def test_small_gradients_stay_as_they_are() -> None:
    assert clip(GRADIENTS, max_norm=5.5) == GRADIENTS


@pytest.mark.parametrize("norm_type", [1, 2.0, 3.5, math.inf])
def test_types_of_norm(norm_type: float) -> None:
    gradients = [[3.0, -1.0, 0.25], [4.0, -7.0]]
    parameters = [nn.Parameter(torch.zeros(len(values))) for values in gradients]
    for parameter, values in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(values)
    torch.nn.utils.clip_grad_norm_(parameters, 0.5, norm_type=norm_type)
    for found, parameter in zip(
        clip(gradients, max_norm=0.5, norm_type=norm_type), parameters, strict=True
    ):
        assert found == pytest.approx(parameter.grad.tolist(), rel=1e-5)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, "1", [1], True])
def test_refuses_a_norm_that_is_not_a_positive_number(bad: object) -> None:
    with pytest.raises(
        UsageError, match=r"clip_grad\.params\.max_norm=.*a positive number; .*False"
    ):
        GradientClipping(bad)


@pytest.mark.parametrize("bad", [0, -2.0, math.nan, "2", None])
def test_refuses_a_type_that_is_not_a_positive_number(bad: object) -> None:
    with pytest.raises(UsageError, match=r"clip_grad\.params\.norm_type=.*such as 2, or inf"):
        GradientClipping(1.0, bad)


def test_the_older_name_is_refused() -> None:
    """In a config file, and as an override of a config that has the new one."""
    message = r"train\.clip_grad\.enabled=True train\.clip_grad\.params\.max_norm=0\.1,"
    with pytest.raises(UsageError, match=message):
        clipping_hooks(OmegaConf.create({"train": {"clip_grad_norm": 0.1}}))
    with pytest.raises(UsageError, match=r"Did you mean .*train\.clip_grad\.params\.max_norm"):
        load_config("quick_start/mask_rcnn_vit_adapter_tiny_scratch", ["train.clip_grad_norm=0.1"])
