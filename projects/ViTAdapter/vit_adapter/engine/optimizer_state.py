"""Checks whether the optimizer state in a checkpoint fits the optimizer of this run."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.parallel import unwrap

__all__ = ["check_optimizer_state", "describe_optimizer"]

_SHAPED_LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
"""Entries of Adam's and SGD's states. Other optimizers may store tensors of any shape."""


def describe_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, object]:
    """Return what an optimizer's own ``state_dict()`` leaves out: its class and parameter names.

    Args:
        optimizer: of parameters of ``model``.
        model: as it is trained, with or without a wrapper.
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
    state: Mapping[str, object],
    description: Mapping[str, object] | None,
) -> None:
    """Refuse a stored state that belongs to another optimizer; nothing is changed.

    Args:
        optimizer: of this run.
        model: whose parameters it holds.
        state: what ``optimizer.state_dict()`` gave.
        description: what :func:`describe_optimizer` gave; None if the checkpoint has none.

    Raises:
        UsageError: another class, other groups, other parameters or other shapes.
    """
    difference = _compare_groups(optimizer, state)
    if description is not None:
        difference = _compare(description, describe_optimizer(optimizer, model)) or difference
    if difference:
        raise UsageError(
            f"the checkpoint's optimizer does not fit that of this run: {difference}. Nothing "
            "was changed. Resume with the train.freeze and optimizer of the first start, or start "
            "a new run from these weights with train.init_checkpoint."
        )


def _compare(stored: Mapping[str, object], own: Mapping[str, object]) -> str:
    """Describe what differs between two descriptions; "" if nothing does."""
    if stored["class"] != own["class"]:
        return f"it was of class {stored['class']}, this one is of class {own['class']}"
    if stored["groups"] == own["groups"]:
        return ""
    old, new = (
        {name for group in groups for name in group} for groups in (stored["groups"], own["groups"])
    )
    parts = [
        f"{len(names)} parameters only {where} ({_few(sorted(names))})"
        for names, where in ((old - new, "there"), (new - old, "here"))
        if names
    ]
    return ", ".join(parts) or "the same parameters in other groups or in another order"


def _compare_groups(optimizer: torch.optim.Optimizer, state: Mapping[str, object]) -> str:
    """Describe what differs in number or shape, for checkpoints without names; "" if nothing."""
    stored = [group["params"] for group in state["param_groups"]]
    own = [group["params"] for group in optimizer.param_groups]
    counts = [list(map(len, groups)) for groups in (stored, own)]
    if counts[0] != counts[1]:
        return f"groups of {_few(counts[0])} parameters there, of {_few(counts[1])} here"
    for keys, parameters in zip(stored, own, strict=True):
        for key, parameter in zip(keys, parameters, strict=True):
            for entry, value in state["state"].get(key, {}).items():
                shaped = entry in _SHAPED_LIKE_PARAMETER and isinstance(value, torch.Tensor)
                if shaped and value.shape != parameter.shape:
                    return (
                        f"{entry} of parameter {key} has the shape {tuple(value.shape)} there, "
                        f"the parameter {tuple(parameter.shape)} here"
                    )
    return ""


def _few(items: Sequence[object], most: int = 6) -> str:
    shown = ", ".join(map(str, items[:most]))
    return f"{shown}, ..." if len(items) > most else shown
