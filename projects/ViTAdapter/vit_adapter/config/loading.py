"""Reading a config file with its overrides."""

import os
from collections.abc import Sequence

from detectron2.config import LazyConfig
from omegaconf import DictConfig
from omegaconf.errors import GrammarParseError
from yaml import YAMLError

from vit_adapter.config.errors import UsageError
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.utils.hints import did_you_mean

__all__ = ["load_config", "read_config"]


def load_config(config_file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a LazyConfig file and apply ``key=value`` overrides.

    Args:
        config_file: a ``.py`` or ``.yaml`` file.
        overrides: see :func:`apply_overrides`.

    Raises:
        UsageError: no such file, one that cannot be read, or an override that cannot be applied.
    """
    if not config_file:
        raise UsageError("no config given; use --config-file configs/<data>/<name>.py.")
    if not config_file.endswith((".py", ".yaml", ".yml")):
        raise UsageError(f"config file {config_file!r} has to end in .py, .yaml or .yml.")
    if not os.path.isfile(config_file):
        raise UsageError(f"config file {config_file!r} does not exist.{_near_files(config_file)}")
    return apply_overrides(read_config(config_file), overrides, source=config_file)


def read_config(config_file: str) -> DictConfig:
    """Load a LazyConfig file that exists.

    Raises:
        UsageError: no YAML, objects in it that this process does not know, or a text with an
            interpolation that is not closed.
    """
    try:
        return LazyConfig.load(config_file)
    except YAMLError as error:
        raise UsageError(
            f"config file {config_file} cannot be read as YAML: {error}. If it was saved by a run "
            "whose config held objects of its own, such as a lambda, give the original config file."
        ) from error
    except GrammarParseError as error:
        raise UsageError(
            f"config file {config_file} holds an interpolation that cannot be read: {error}. The "
            "signs ${ in a text are written \\${."
        ) from error


def _near_files(config_file: str) -> str:
    folder = os.path.dirname(config_file) or "."
    if not os.path.isdir(folder):
        return f" There is no folder {folder!r} either."
    names = [name for name in sorted(os.listdir(folder)) if name.endswith((".py", ".yaml"))]
    return did_you_mean(config_file, [os.path.join(folder, name) for name in names])
