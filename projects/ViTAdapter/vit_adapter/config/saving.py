"""Saving a config as a YAML file that another process can read, whatever objects it holds."""

from typing import Any

import yaml
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.errors import UsageError

__all__ = ["dump_config", "importable_name", "not_saved", "plain_config"]

_PLAIN = (str, int, float, bool, type(None))


def dump_config(cfg: DictConfig) -> tuple[str, list[str]]:
    """Return a config as YAML, which ``LazyConfig.load`` can read, and what was left out.

    Objects that only this process knows (a lambda, or objects that a config file or script defines)
    are replaced by a node that raises an error when it is instantiated; see :func:`not_saved`.

    Returns:
        The YAML text, and ``"key (object)"`` for each object left out.
    """
    left_out: list[str] = []
    content = _portable(OmegaConf.to_container(cfg, resolve=False), "", left_out)
    text = _dump(content, allow_unicode=True)
    if "\x85" in text:  # the only character that is not read back
        text = _dump(content, allow_unicode=False)
    return text, left_out


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """Return a config with all interpolations resolved, as plain values.

    Callables and other objects are replaced by their names. This is for programs that show or
    compare configs; :func:`dump_config` writes one that can be read back.
    """
    return _named(OmegaConf.to_container(cfg, resolve=True))


def not_saved(*, lacking: str, **arguments: object) -> None:
    """Replace an object that YAML cannot hold in a saved config.

    Args:
        lacking: key and name of the object.
        arguments: arguments of a missing callable, kept so that they can still be read.

    Raises:
        UsageError: always, with the name of the object and what to do.
    """
    raise UsageError(
        f"{lacking} is missing from this saved config, because YAML cannot hold it. Give the "
        "original config file, and the weights as train.init_checkpoint."
    )


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _named(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_named(child) for child in value]
    if type(value) in _PLAIN:
        return value
    return importable_name(value) or getattr(value, "__qualname__", type(value).__qualname__)


def _dump(content: Any, *, allow_unicode: bool) -> str:
    return yaml.dump(content, default_flow_style=None, allow_unicode=allow_unicode, width=9999)


def _portable(value: Any, key: str, left_out: list[str]) -> Any:
    """Copy the content of a config with its objects replaced; extend ``left_out``."""
    if isinstance(value, dict):
        target = value.get("_target_")
        if callable(target):
            name = importable_name(target)
            stand_in = {"_target_": name} if name else _leave_out(target, key, left_out)
            value = {**value, **stand_in}
        return {
            name: _portable(child, f"{key}.{name}" if key else str(name), left_out)
            for name, child in value.items()
        }
    if isinstance(value, list):
        return [_portable(child, f"{key}.{i}", left_out) for i, child in enumerate(value)]
    if type(value) in _PLAIN or _survives(value):
        return value
    return _leave_out(value, key, left_out)


def _leave_out(value: Any, key: str, left_out: list[str]) -> dict[str, str]:
    kind = getattr(value, "__qualname__", None) or type(value).__qualname__
    left_out.append(f"{key} ({kind})")
    return {"_target_": f"{__name__}.{not_saved.__name__}", "lacking": left_out[-1]}


def importable_name(target: Any) -> str | None:
    """The name by which any process can import a callable, or None."""
    try:
        name = _convert_target_to_string(target)
        return name if locate(name) is target and not name.startswith("__main__.") else None
    except Exception:  # a partial, a lambda, or a function of a config file
        return None


def _survives(value: Any) -> bool:
    """Whether another process can read an object back from YAML."""
    try:
        text = yaml.dump(value)
        yaml.unsafe_load(text)
    except Exception:  # the object's own code may raise anything
        return False
    return "__main__" not in text
