"""The original's two rules that give each parameter its learning rate and weight decay.

The published ViT-Adapter models (https://arxiv.org/abs/2205.08534) were trained with them, so both
are kept exactly, including what look like mistakes:

* :func:`custom_keys_param_groups` matches parts of parameter names. Biases, layer norms and the
  position embedding are not decayed. The batch norms of the spatial prior module and all layer
  scales *are*, because no key is part of their names.
* :func:`layer_decay_param_groups` uses depth and rank. 1-D tensors (layer scales, all norms) are
  not decayed. The position embedding and the level embedding *are*: they have more than one
  dimension, and the original's list of exemptions never matches. Its segmentation code also gives
  the lowest rate to the classifier, mask MLP and queries of Mask2Former. ``as_published=False``
  corrects both mistakes.

Modules know their own parameters: a ViT knows their depth (:meth:`ViTTrunk.parameter_layers`), and
any module can name its embeddings in ``no_weight_decay()``, as in timm. Each rule only decides the
(lr, weight decay) of a parameter; ``_collect`` makes the groups.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.layers import Conv2d
from torch import nn

from vit_adapter.backbone.lora import belongs_to_lora
from vit_adapter.backbone.trunk import ViTTrunk

_MULTIPLIERS = ("lr_mult", "decay_mult")


def custom_keys_param_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    custom_keys: Mapping[str, Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Group parameters by the pieces of text that their names contain.

    Args:
        model: parameters with ``requires_grad=False`` are left out; a shared parameter appears
            once, under its first name.
        base_lr: learning rate before multiplication, > 0.
        weight_decay: weight decay before multiplication, >= 0.
        custom_keys: piece of a name -> ``{"lr_mult": ..., "decay_mult": ...}``, each 1 if absent.
            Keys are tried from longest to shortest, and in alphabetical order if equally long; only
            the first one that the name contains applies. LoRA factors are new, so no key of their
            ViT applies to them: their names are ``lora_a`` and ``lora_b`` here.

    Returns:
        One group ``{"params", "lr", "weight_decay"}`` for each distinct pair of the two numbers,
        in the order of the model.

    Raises:
        ValueError: a number is out of range, a multiplier is unknown, or nothing is to be trained.
    """
    _check_base_values(base_lr, weight_decay)
    for key, multipliers in custom_keys.items():
        unknown = sorted(set(multipliers) - set(_MULTIPLIERS))
        if unknown:
            raise ValueError(f"custom_keys[{key!r}] has {unknown}; known are {list(_MULTIPLIERS)}")
    keys = sorted(sorted(custom_keys), key=len, reverse=True)
    conv_norms = _norms_inside_convolutions(model)

    def rule(name: str, param: nn.Parameter) -> tuple[float, float]:
        owner, _, leaf = name.rpartition(".")
        if owner in conv_norms:
            name = f"{owner.removesuffix('norm')}bn.{leaf}"
        elif belongs_to_lora(name):
            name = leaf
        key = next((key for key in keys if key in name), None)
        multipliers = {} if key is None else custom_keys[key]
        lr_mult, decay_mult = (multipliers.get(multiplier, 1.0) for multiplier in _MULTIPLIERS)
        return base_lr * lr_mult, weight_decay * decay_mult

    return _collect(model, rule)


def layer_decay_param_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    decay_rate: float,
    first_layer_names: Sequence[str] = (),
    as_published: bool = True,
) -> list[dict[str, Any]]:
    """Group parameters by depth: the closer to the input of the ViT, the lower the learning rate.

    With a ViT of L blocks there are L + 2 layers: 0 for its stem (patches, tokens, positions),
    i + 1 for block i, and L + 1 for everything else (adapter, pyramid, heads); see
    :meth:`ViTTrunk.parameter_layers`. Layer k has ``base_lr * decay_rate ** (L + 1 - k)``.
    1-D tensors and those whose name ends in ``.bias`` have no weight decay. LoRA factors are new:
    they have ``base_lr`` in every block, and weight decay, which pulls towards the pre-trained ViT.

    Args:
        model: parameters with ``requires_grad=False`` are left out; a shared parameter appears
            once, under its first name.
        base_lr: learning rate of everything outside the ViT, > 0.
        weight_decay: weight decay of tensors with two or more dimensions, >= 0.
        decay_rate: factor between neighbouring layers, in (0, 1].
        first_layer_names: prefixes of names outside the ViT that count as layer 0.
        as_published: follow the original even where it is probably mistaken. Otherwise
            ``first_layer_names`` are not used, and embeddings (of positions, levels or queries;
            tokens; tables of relative positions) have no weight decay: those that a module names in
            ``no_weight_decay()``.

    Returns:
        One group ``{"params", "lr", "weight_decay"}`` for each distinct pair of the two numbers,
        in the order of the model.

    Raises:
        ValueError: a number is out of range, the model has no ViT, a ViT does not say which layer a
            parameter belongs to, or nothing is to be trained.
    """
    _check_base_values(base_lr, weight_decay)
    if not 0.0 < decay_rate <= 1.0:
        raise ValueError(f"decay_rate must be in (0, 1], got {decay_rate}")
    trunks = _find_trunks(model)
    lowest = max(trunk.depth for trunk in trunks.values()) + 1
    steps_below = {
        _join(prefix, name): trunk.depth + 1 - layer
        for prefix, trunk in trunks.items()
        for name, layer in trunk.parameter_layers().items()
    }
    first_layer = tuple(first_layer_names) if as_published else ()
    embeddings = set() if as_published else _embeddings(model)

    def rule(name: str, param: nn.Parameter) -> tuple[float, float]:
        steps = lowest if name.startswith(first_layer) else steps_below.get(name, 0)
        steps = 0 if belongs_to_lora(name) else steps
        exempt = param.ndim == 1 or name.endswith(".bias") or name in embeddings
        return base_lr * decay_rate**steps, 0.0 if exempt else weight_decay

    return _collect(model, rule)


def _check_base_values(base_lr: float, weight_decay: float) -> None:
    if not (math.isfinite(base_lr) and base_lr > 0):
        raise ValueError(f"base_lr must be a positive number, got {base_lr}")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"weight_decay must be a number >= 0, got {weight_decay}")


def _find_trunks(model: nn.Module) -> dict[str, ViTTrunk]:
    """The ViTs in a model, by name."""
    trunks = {
        name: module for name, module in model.named_modules() if isinstance(module, ViTTrunk)
    }
    if not trunks:
        raise ValueError(
            f"layer decay needs a ViT, but {type(model).__name__} holds no ViTTrunk; use "
            "custom_keys_param_groups, or build the model around a ViTTrunk"
        )
    return trunks


def _embeddings(model: nn.Module) -> set[str]:
    """Names of the parameters in ``no_weight_decay()`` of their modules."""
    return {
        _join(prefix, name)
        for prefix, module in model.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _collect(
    model: nn.Module, rule: Callable[[str, nn.Parameter], tuple[float, float]]
) -> list[dict[str, Any]]:
    """Group the parameters to which ``rule`` gives the same (lr, weight decay)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, param in model.named_parameters():  # lists a shared parameter once
        if not param.requires_grad:
            continue
        groups.setdefault(rule(name, param), []).append(param)
    if not groups:
        raise ValueError(
            f"no parameter of {type(model).__name__} requires a gradient: nothing to train"
        )
    return [
        {"params": params, "lr": lr, "weight_decay": decay}
        for (lr, decay), params in groups.items()
    ]


def _norms_inside_convolutions(model: nn.Module) -> set[str]:
    """Names of the norms that are children of Detectron2's convolutions.

    Detectron2 calls this child ``norm``; the original's library calls it ``bn`` or ``gn``. Its
    rules depend on names: the key "norm" is meant for ``norm1`` of a block and must not match the
    norm of a convolution in a pyramid or head.
    """
    return {
        f"{name}.norm"
        for name, module in model.named_modules()
        if isinstance(module, Conv2d) and isinstance(module.norm, nn.Module)
    }
