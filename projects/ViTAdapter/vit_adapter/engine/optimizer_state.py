"""Checking that the optimizer state in a checkpoint fits the optimizer of this run."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.parallel import unwrap

__all__ = ["check_optimizer_state", "describe_optimizer"]

_SHAPED_LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
"""Entries in the states of Adam and SGD. Other optimizers may store tensors of any shape."""


def describe_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return what an optimizer's own ``state_dict()`` leaves out: its class and parameter names.

    Args:
        optimizer: holds parameters of ``model``.
        model: the trained model, with or without a wrapper.
    """
    names = {parameter: name for name, parameter in unwrap(model).named_parameters()}
    return {
        "class": type(optimizer).__qualname__,
        "groups": [
            [names.get(parameter, "unnamed") for parameter in group["params"]]
            for group in optimizer.param_groups
        ],
    }


def check_optimizer_state(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    state: Mapping[str, Any],
    description: Mapping[str, Any] | None,
) -> None:
    """Refuse a stored state that belongs to another optimizer; nothing is changed.

    Args:
        optimizer: the optimizer of this run.
        model: the model whose parameters it holds.
        state: the stored result of ``optimizer.state_dict()``.
        description: the stored result of :func:`describe_optimizer`; None if there is none.

    Raises:
        UsageError: the class, the groups, the parameters or their shapes differ.
    """
    difference = _compare_groups(optimizer, state)
    if description is not None:
        difference = _compare(description, describe_optimizer(optimizer, model)) or difference
    if difference:
        raise UsageError(
            f"the checkpoint's optimizer does not fit this run's: {difference}. Nothing was "
            "changed. Resume with the original train.freeze and optimizer, or start a new run from "
            "these weights with train.init_checkpoint."
        )


def _compare(stored: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Describe what differs between two descriptions; "" if nothing does."""
    if stored["class"] != own["class"]:
        return f"its class is {stored['class']}, this run's is {own['class']}"
    if stored["groups"] == own["groups"]:
        return ""
    old, new = (
        {name for group in groups for name in group} for groups in (stored["groups"], own["groups"])
    )
    parts = [
        f"{len(names)} parameters only in {where} ({_few(sorted(names))})"
        for names, where in ((old - new, "the checkpoint"), (new - old, "this run"))
        if names
    ]
    return ", ".join(parts) or "the same parameters in different groups or in a different order"


def _compare_groups(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> str:
    """Describe differences in number or shape, for checkpoints without names; "" if none."""
    stored = [group["params"] for group in state["param_groups"]]
    own = [group["params"] for group in optimizer.param_groups]
    counts = [list(map(len, groups)) for groups in (stored, own)]
    if counts[0] != counts[1]:
        return (
            f"groups of {_few(counts[0])} parameters in the checkpoint, of {_few(counts[1])} in "
            "this run"
        )
    for keys, parameters in zip(stored, own, strict=True):
        for key, parameter in zip(keys, parameters, strict=True):
            for entry, value in state["state"].get(key, {}).items():
                shaped = entry in _SHAPED_LIKE_PARAMETER and isinstance(value, torch.Tensor)
                if shaped and value.shape != parameter.shape:
                    return (
                        f"{entry} of parameter {key} has the shape {tuple(value.shape)} in the "
                        f"checkpoint, but the parameter has {tuple(parameter.shape)} in this run"
                    )
    return ""


def _few(items: Sequence[object], most: int = 6) -> str:
    shown = ", ".join(map(str, items[:most]))
    return f"{shown}, ..." if len(items) > most else shown
