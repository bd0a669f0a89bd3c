"""Optimizer states that fit and that do not fit."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.optimizer_state import check_optimizer_state, describe_optimizer


def make_model() -> nn.ModuleDict:
    return nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(2, 3), "c": nn.Linear(3, 2)})


def adam(*names: str, groups: int = 1) -> Callable[[nn.ModuleDict], Optimizer]:
    """An AdamW for some layers, in groups of the given sizes."""

    def build(model: nn.ModuleDict) -> Optimizer:
        of_group = [names[n::groups] for n in range(groups)]
        return AdamW(
            [
                {"params": [p for name in group for p in model[name].parameters()]}
                for group in of_group
            ]
        )

    return build


def stored(build: Callable[[nn.ModuleDict], Optimizer]) -> tuple[dict, dict]:
    """State and description after a step."""
    model = make_model()
    optimizer = build(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict(), describe_optimizer(optimizer, model)


@pytest.mark.parametrize("named", [True, False])
def test_same_optimizer(named: bool) -> None:
    state, description = stored(adam("a", "b", groups=2))
    model = make_model()
    optimizer = adam("a", "b", groups=2)(model)
    check_optimizer_state(optimizer, model, state, description if named else None)


def test_optimizer_states_may_have_any_shape() -> None:
    """Adafactor stores rows and columns."""
    model = make_model()
    optimizer = SGD(model.parameters(), lr=1.0)
    state = optimizer.state_dict()
    state["state"] = {0: {"row_var": torch.ones(3, 1), "step": torch.tensor(1.0)}}
    check_optimizer_state(optimizer, model, state, None)


@pytest.mark.parametrize(
    ("before", "after", "named", "message"),
    [
        (adam("a", "b"), adam("a"), True, r"2 parameters only in the checkpoint \(b.bias, b.w"),
        (adam("a"), adam("a", "c"), True, r"2 parameters only in this run \(c.bias, c.weight\)"),
        # Equal numbers and shapes: only the names differ.
        (adam("a"), adam("b"), True, r"checkpoint \(a.bias, a.weight\), 2 .* run \(b.bias"),
        (adam("a", "b"), adam("b", "a"), True, "same parameters in different groups or in a"),
        (adam("a", "b"), adam("a", "b", groups=2), True, "same parameters in different groups"),
        (adam("a"), lambda m: SGD(m["a"].parameters(), lr=1.0), True, "its class is AdamW, .* SGD"),
        (adam("a", "b"), adam("a"), False, "groups of 4 parameters in the checkpoint, of 2 in"),
        (adam("a", "b"), adam("a", "b", groups=2), False, "in the checkpoint, of 2, 2 in this run"),
        (adam("a"), adam("c"), False, r"exp_avg of parameter 0 has the shape \(3, 2\)"),
        (
            lambda m: SGD(m["a"].parameters(), lr=1.0, momentum=0.9),
            lambda m: SGD(m["c"].parameters(), lr=1.0, momentum=0.9),
            False,
            "momentum_buffer of parameter 0 has the shape",
        ),
    ],
)
def test_other_optimizer(
    before: Callable[[nn.ModuleDict], Optimizer],
    after: Callable[[nn.ModuleDict], Optimizer],
    named: bool,
    message: str,
) -> None:
    state, description = stored(before)
    model = make_model()
    with pytest.raises(UsageError, match=message):
        check_optimizer_state(after(model), model, state, description if named else None)
