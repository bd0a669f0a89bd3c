"""Applying ``key=value`` overrides, where a typo is an error with a helpful message."""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vit_adapter.config.errors import UsageError
from vit_adapter.config.override_values import SHORT_FORMS, read_value
from vit_adapter.utils.hints import did_you_mean

__all__ = ["apply_overrides"]

_KEY = re.compile(r"[\w$-]+(\.[\w$-]+)*")


def apply_overrides(
    cfg: DictConfig, overrides: Sequence[str], *, source: str = "the config"
) -> DictConfig:
    """Apply ``key=value`` overrides.

    Detectron2 creates a key that does not exist. Here, a key must exist or be a parameter of the
    callable that its node instantiates; ``+key=value`` adds a new key.

    Where the config holds a text, the value is taken as typed, for example
    ``train.output_dir=2024_01_01`` or ``data.train_images=a=b (copy)``. The exceptions: ``null`` is
    None, enclosing quotes are removed, an interpolation ``${key}`` is resolved, and ``[a,b]`` is a
    list of texts unless the key is a path. Elsewhere the value is parsed with Hydra's basic grammar
    (https://hydra.cc) and must have the same type as in the config.

    Args:
        cfg: changed in place.
        overrides: such as ``train.max_iter=100``.
        source: where ``cfg`` comes from, for messages.

    Returns:
        ``cfg``.

    Raises:
        UsageError: an override cannot be parsed, a key is unknown (similar keys are suggested), or
            a value has a different type than in the config.
    """
    for override in overrides:
        key, value = _read(cfg, override, source)
        OmegaConf.update(cfg, key, value, merge=True)
    for override in overrides:  # only now, as an interpolation may refer to a later override
        _check_interpolations(cfg, override)
    return cfg


def _read(cfg: DictConfig, override: str, source: str) -> tuple[str, Any]:
    """Split an override and return its key and the new value."""
    if override.startswith("-"):
        raise UsageError(f"unknown option {override!r}; see --help.")
    key, equals, text = override.partition("=")
    if key.startswith("~"):
        raise UsageError(f"override {override!r} deletes a key, which is not supported.")
    is_new = key.startswith("+")
    key = key.lstrip("+")
    if not equals or not _KEY.fullmatch(key):
        raise UsageError(f"override {override!r} is not of the form key=value.")
    parent_key, _, leaf = key.rpartition(".")
    try:
        parent = OmegaConf.select(cfg, parent_key) if parent_key else cfg
    except Exception as error:  # an unresolvable interpolation, or an index out of range
        raise UsageError(f"override {key!r} cannot be resolved: {error}") from error
    if isinstance(parent, ListConfig) and not (leaf.isdigit() and int(leaf) < len(parent)):
        last = len(parent) - 1
        use = f"{parent_key}.0 to {parent_key}.{last}" if parent else f"{parent_key}=[...]"
        raise UsageError(
            f"override {key!r}: {parent_key} is a list of {len(parent)} entries; use {use}."
        )
    known = isinstance(parent, ListConfig) or (
        isinstance(parent, DictConfig) and (leaf in parent or leaf in _parameters(parent))
    )
    may_be_added = is_new and (parent is None or isinstance(parent, DictConfig))
    if not known and (may_be_added or key in SHORT_FORMS):
        return key, read_value(key, text, None)
    if not known:
        raise UsageError(
            f"unknown key {key!r} in the overrides of {source}.{_near_keys(cfg, key)} "
            f"To add a new key, write +{key}=..."
        )
    return key, read_value(key, text, _present(parent, leaf))


def _present(parent: DictConfig | ListConfig, leaf: str) -> Any:
    """The current value of a key, lists as plain lists, or the default of that parameter."""
    if isinstance(parent, DictConfig) and leaf not in parent:
        default = _parameters(parent)[leaf].default
        return None if default is inspect.Parameter.empty else default
    try:
        present = parent[int(leaf) if isinstance(parent, ListConfig) else leaf]
        if isinstance(present, ListConfig):
            return OmegaConf.to_container(present, resolve=True)
    except OmegaConfBaseException:  # missing, or an unresolvable interpolation
        return None
    return present


def _check_interpolations(cfg: DictConfig, override: str) -> None:
    key, _, text = override.lstrip("+").partition("=")
    if "${" not in text:
        return
    try:
        value = OmegaConf.select(cfg, key)
        if OmegaConf.is_config(value):
            OmegaConf.to_container(value, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(
            f"override {override}: the interpolation refers to nothing. Write \\${{ for the "
            "characters ${ in a text."
        ) from error


def _parameters(node: DictConfig) -> dict[str, inspect.Parameter]:
    """The keyword parameters of what a node instantiates."""
    target = node.get("_target_")
    if target is None:
        return {}
    if isinstance(target, str):
        target = locate(target)
    if not callable(target):
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(target).parameters
    return {name: given for name, given in parameters.items() if given.kind in named}


def _near_keys(cfg: DictConfig, key: str) -> str:
    every = list(_keys(cfg))
    leaf = key.rpartition(".")[2]
    same_leaf = [other for other in every if other.rpartition(".")[2] == leaf]
    otherwise = f"It has {', '.join(cfg)}."
    return did_you_mean(key, every, cutoff=0.6, also=same_leaf, otherwise=otherwise)


def _keys(node: DictConfig | ListConfig, prefix: str = "") -> Iterator[str]:
    names = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        if name == "_target_":
            continue
        yield f"{prefix}{name}"
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            continue
        child = node[name]
        if isinstance(child, (DictConfig, ListConfig)):
            yield from _keys(child, f"{prefix}{name}.")
