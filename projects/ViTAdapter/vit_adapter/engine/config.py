"""Reading a config file with its overrides, so that a slip of the pen is an error that says so."""

import difflib
import inspect
import os
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["UsageError", "apply_overrides", "load_config", "resolve_device"]


class UsageError(ValueError):
    """The command line or the config asks for something impossible; the message says what."""


def load_config(config_file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a LazyConfig file and apply ``key=value`` overrides.

    Args:
        config_file: a ``.py`` or ``.yaml`` file.
        overrides: see :func:`apply_overrides`.

    Raises:
        UsageError: no such file, or an override that cannot be applied.
    """
    if not config_file:
        raise UsageError("no config given; use --config-file configs/<data>/<name>.py.")
    if not config_file.endswith((".py", ".yaml", ".yml")):
        raise UsageError(f"config file {config_file!r} has to end in .py, .yaml or .yml.")
    if not os.path.isfile(config_file):
        raise UsageError(f"config file {config_file!r} does not exist.{_near_files(config_file)}")
    return apply_overrides(LazyConfig.load(config_file), overrides, source=config_file)


def apply_overrides(
    cfg: DictConfig, overrides: Sequence[str], *, source: str = "the config"
) -> DictConfig:
    """Apply ``key=value`` overrides.

    Detectron2 creates a key that does not exist; here a key must exist, or be a parameter of the
    callable that its node instantiates. ``+key=value`` adds a key on purpose.

    Args:
        cfg: changed in place.
        overrides: such as ``train.max_iter=100`` (https://hydra.cc, basic override grammar).
        source: where ``cfg`` comes from, for messages.

    Returns:
        ``cfg``.

    Raises:
        UsageError: an override that cannot be read, or an unknown key; similar keys are named.
    """
    for override in _parse(overrides):
        _check_key(cfg, override, source)
    try:
        return LazyConfig.apply_overrides(cfg, [text.lstrip("+") for text in overrides])
    except (KeyError, HydraException) as error:
        raise UsageError(f"cannot apply the overrides {list(overrides)}: {error}") from error


def resolve_device(cfg: DictConfig) -> torch.device:
    """Return the device of ``cfg.train.device``; ``"auto"`` is CUDA where there is a GPU.

    Raises:
        UsageError: an unknown device, or CUDA where there is none.
    """
    name = str(OmegaConf.select(cfg, "train.device", default="auto"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"train.device={name!r} is no device; use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("train.device=cuda, but no CUDA device is visible; use train.device=cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UsageError(f"train.device={name}, but CUDA devices are visible from 0 to {last}.")
    return device


def _parse(overrides: Sequence[str]) -> list[Override]:
    for text in overrides:
        if text.startswith("-"):
            raise UsageError(f"unknown option {text!r}; see --help.")
        if "=" not in text:
            raise UsageError(f"override {text!r} is no key=value.")
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UsageError(
            f"cannot read the overrides {list(overrides)}: {error}. Write key=value without "
            "spaces, and quote values that hold commas, brackets or spaces: 'key=\"a b\"'."
        ) from error


def _check_key(cfg: DictConfig, override: Override, source: str) -> None:
    key = override.key_or_group
    if override.is_sweep_override():
        raise UsageError(
            f"override {override.input_line!r} names several values; quote a text with commas: "
            f"'{key}=\"a,b\"', and put a list into brackets."
        )
    if override.is_delete():
        raise UsageError(f"override '~{key}' deletes a key, which is not supported.")
    if override.is_add():
        return
    parent_key, _, leaf = key.rpartition(".")
    try:
        parent = OmegaConf.select(cfg, parent_key) if parent_key else cfg
    except Exception as error:  # an interpolation that leads nowhere, or an index out of range
        raise UsageError(f"override {key!r} cannot be followed: {error}") from error
    if isinstance(parent, ListConfig):
        if not leaf.isdigit() or int(leaf) >= len(parent):
            raise UsageError(
                f"override {key!r}: {parent_key} is a list of {len(parent)} entries; use "
                f"{parent_key}.0 to {parent_key}.{len(parent) - 1}."
            )
        return
    if isinstance(parent, DictConfig) and (leaf in parent or leaf in _parameters(parent)):
        return
    raise UsageError(
        f"unknown key {key!r} in the overrides of {source}.{_near_keys(cfg, key)} "
        f"A key that is new on purpose is written +{key}=..."
    )


def _parameters(node: DictConfig) -> frozenset[str]:
    """Names of the keyword parameters of what a node instantiates."""
    target = node.get("_target_")
    if target is None:
        return frozenset()
    if isinstance(target, str):
        target = locate(target)
    if not callable(target):
        return frozenset()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(target).parameters.values()
    return frozenset(parameter.name for parameter in parameters if parameter.kind in named)


def _near_keys(cfg: DictConfig, key: str) -> str:
    every = list(_keys(cfg))
    near = difflib.get_close_matches(key, every, n=4, cutoff=0.6)
    leaf = key.rpartition(".")[2]
    same_leaf = [other for other in every if other.rpartition(".")[2] == leaf]
    names = list(dict.fromkeys([*near, *same_leaf]))[:6]
    return f" Did you mean {', '.join(names)}?" if names else f" It has {', '.join(cfg)}."


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


def _near_files(config_file: str) -> str:
    folder = os.path.dirname(config_file) or "."
    if not os.path.isdir(folder):
        return f" There is no folder {folder!r} either."
    names = [name for name in sorted(os.listdir(folder)) if name.endswith((".py", ".yaml"))]
    near = difflib.get_close_matches(os.path.basename(config_file), names, n=4, cutoff=0.4)
    if not near:
        return ""
    return f" Did you mean {', '.join(os.path.join(folder, name) for name in near)}?"
