"""Checkpoints without the fixed weights of a ViT, which come from the file of its pre-training.

Such a checkpoint holds, under ``fixed_weights``, a hash of every tensor that it leaves out, so that
it is never used with the weights of another ViT.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vit_adapter.backbone.trunk import ViTTrunk

__all__ = [
    "FIXED_WEIGHTS",
    "BaseWeights",
    "BaseWeightsError",
    "complete",
    "fixed_weights",
    "hash_fixed_weights",
]

FIXED_WEIGHTS = "fixed_weights"
"""The key of such a checkpoint that describes what it leaves out."""


class BaseWeightsError(ValueError):
    """The fixed weights of a model are not those that a checkpoint was trained on."""


@dataclass(frozen=True)
class BaseWeights:
    """The pre-trained weights of a ViT, which its checkpoints need not repeat.

    Attributes:
        source: their file, as in ``train.vit_checkpoint``; "" if there is none.
        load: loads them into the ViT inside a model.
    """

    source: str
    load: Callable[[nn.Module], object]


def hash_fixed_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, str]:
    """Hash every weight that a checkpoint of the trained part leaves out, by name.

    These are the untrained parameters in the blocks of a ViT, which are nearly all of it. Stem and
    positions are not among them: they may have been resized while loading, with other rounding on
    other machines.

    Args:
        model: without a wrapper; what is not trained has ``requires_grad=False``.
        state_dict: the whole weights of the model, which itself may hold only a part of each; None
            if it holds all.
    """
    weights = fixed_weights(model)
    if state_dict is not None:
        weights = {name: state_dict[name] for name in weights}
    return {name: _hash(weight) for name, weight in weights.items()}


def complete(
    model: nn.Module,
    state_dict: dict[str, Tensor],
    fixed: Mapping[str, Any],
    base: BaseWeights | None,
    *,
    source: str,
) -> dict[str, Tensor]:
    """Add the fixed weights of ``model`` to a checkpoint of the trained part.

    Weights that were stored in bfloat16 during training are rounded where the model has more
    digits.

    Args:
        model: if its fixed weights are not those of the checkpoint, ``base`` is loaded into it.
        state_dict: the trained part.
        fixed: what the checkpoint stores under ``FIXED_WEIGHTS``.
        base: None if there are no such weights.
        source: what the messages call the checkpoint.

    Raises:
        BaseWeightsError: these are not the weights that the checkpoint was trained on.
        FileNotFoundError, ConnectionError: ``base`` cannot be read.
    """
    hashes: Mapping[str, str] = fixed["sha256"]
    found = _find_same(model, hashes)
    if base is not None and base.source and len(found) < len(hashes):
        _load_base(model, base, source)
        found = _find_same(model, hashes)
    other = [name for name in hashes if name not in found]
    if other:
        given = repr(base.source) if base is not None and base.source else "not given"
        raise BaseWeightsError(
            f"{source} holds only the trained part of a model. It was trained on the ViT of "
            f"train.vit_checkpoint={fixed['source']!r}, but here train.vit_checkpoint is {given}, "
            f"and {len(other)} of its {len(hashes)} fixed tensors differ, the first is "
            f"{other[0]}. Give the same train.vit_checkpoint and the same model as in training."
        )
    whole = copy.copy(state_dict)  # with the module versions attached to it
    whole.update(found)
    return whole


def _load_base(model: nn.Module, base: BaseWeights, source: str) -> None:
    try:
        base.load(model)
    except (FileNotFoundError, ConnectionError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ConnectionError
        raise kind(
            f"{source} holds only the trained part of a model. The rest comes from "
            f"train.vit_checkpoint={base.source!r}, which cannot be read: {error} If the file has "
            "moved, give its new path in train.vit_checkpoint."
        ) from error


def fixed_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return name -> parameter of what a checkpoint of the trained part leaves out."""
    found = {}
    for prefix, vit in model.named_modules():
        if not isinstance(vit, ViTTrunk):
            continue
        layers, positions = vit.parameter_layers(), vit.no_weight_decay()
        for name, weight in vit.named_parameters():
            if layers[name] > 0 and name not in positions and not weight.requires_grad:
                found[f"{prefix}.{name}" if prefix else name] = weight
    return found


def _find_same(model: nn.Module, hashes: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights of a model that have the given hashes, as they are or in bfloat16."""
    own = model.state_dict()
    found = {}
    for name, value in hashes.items():
        if name not in own:
            continue
        for round_off in (Tensor.detach, Tensor.bfloat16):
            weight = round_off(own[name])
            if _hash(weight) == value:
                found[name] = weight
                break
    return found


def _hash(weight: Tensor) -> str:
    """The SHA-256 of shape, dtype and values."""
    values = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(values.shape)} {values.dtype}\n".encode())
    digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
