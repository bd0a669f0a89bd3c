"""Loading a config by file, by name in the model zoo, or from a folder with a trained model."""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

from detectron2.config import CfgNode, LazyConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError
from yaml import YAMLError

from vit_adapter import model_zoo
from vit_adapter.checkpoint import run_files
from vit_adapter.config.errors import MissingFileError, UsageError
from vit_adapter.config.input_channels import expand_input_channels
from vit_adapter.config.literals import literal
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.config.portable import read_portable
from vit_adapter.hub import is_portable
from vit_adapter.utils.hints import did_you_mean

__all__ = ["load_config", "read_config", "resolve_config"]

_SUFFIXES = (".py", ".yaml", ".yml")


def load_config(
    config: str | os.PathLike[str] | Mapping, overrides: Sequence[str] = ()
) -> DictConfig:
    """Load a config, apply ``key=value`` overrides, and expand ``model.input_channels``.

    Args:
        config: see :func:`resolve_config`.
        overrides: see :func:`apply_overrides`.

    Raises:
        TypeError: ``config`` is none of these.
        UsageError: the config does not exist or cannot be read, or an override cannot be applied.
    """
    source = os.fspath(config) if isinstance(config, str | os.PathLike) else "the config"
    cfg = apply_overrides(resolve_config(config), overrides, source=source)
    expand_input_channels(cfg, [each.partition("=")[0].lstrip("+") for each in overrides])
    return cfg


def resolve_config(config: str | os.PathLike[str] | Mapping) -> DictConfig:
    """Return a new config object for anything that names a config.

    Args:
        config: path of a config file (.py, or the .yaml that training saves), a name in the model
            zoo, the output folder of a training run, a portable folder, or a config object (left
            unchanged). For a folder, ``train.init_checkpoint`` of the result names the last weights
            in it. For that of a training run, ``train.output_dir`` names the folder itself.

    Raises:
        TypeError: it is none of these.
        UsageError: it is not a LazyConfig, no config has that name, or a portable folder was
            altered.
        MissingFileError: the file does not exist, or the folder has no config or no weights.
    """
    if isinstance(config, str | os.PathLike):
        name = os.fspath(config)
        cfg = _load_named(name)
    elif isinstance(config, Mapping | DictConfig):
        name = "the config object"
        cfg = DictConfig(deepcopy(config), flags={"allow_objects": True})
    else:
        raise TypeError(
            f"config is of type {type(config).__qualname__}, expected a path, a name in the model "
            "zoo or a config object"
        )
    if isinstance(config, CfgNode) or "MODEL" in cfg:
        raise UsageError(
            f"{name} is a yacs config, expected a LazyConfig; for yacs use Detectron2's "
            "DefaultPredictor after vit_adapter.add_vit_adapter_config(cfg)"
        )
    if "model" not in cfg:
        raise UsageError(f"{name} has no key 'model', only {', '.join(map(str, cfg)) or 'nothing'}")
    return cfg


def read_config(config_file: str) -> DictConfig:
    """Load a LazyConfig file that exists.

    Raises:
        UsageError: it is not YAML, contains objects that this process does not know, or has a text
            with an unclosed interpolation.
    """
    try:
        return LazyConfig.load(config_file)
    except YAMLError as error:
        raise UsageError(
            f"config file {config_file} cannot be read as YAML: {error}. If it was saved by a run "
            "whose config defined its own objects, such as a lambda, give the original config file."
        ) from error
    except GrammarParseError as error:
        raise UsageError(
            f"config file {config_file} has an interpolation that cannot be read: {error}. Write "
            "\\${ for the characters ${ in a text."
        ) from error


def _load_named(name: str) -> DictConfig:
    """Load a config from an output folder, from a file or from the model zoo."""
    if not name:
        raise UsageError("no config given; use --config-file <file or name in the model zoo>.")
    path = Path(name).expanduser()
    if path.is_dir():
        return read_portable(path) if is_portable(path) else _load_output_folder(path)
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise UsageError(f"config file {name!r} must end in {' or '.join(_SUFFIXES)}.")
        return read_config(str(path))
    if path.suffix in _SUFFIXES or path.is_absolute():
        raise MissingFileError(
            f"config file {name!r} does not exist (looked from {Path.cwd()}).{_near_configs(path)}"
        )
    try:
        config_file = model_zoo.get_config_file(name)
    except ValueError as error:  # no such name
        raise UsageError(
            f"{error} There is no file or folder {name!r} either (looked from {Path.cwd()})."
        ) from error
    return read_config(config_file)


def _load_output_folder(folder: Path) -> DictConfig:
    """Load the config of a training run, set to its folder and to its last weights."""
    config_file = folder / run_files.CONFIG
    if not config_file.is_file():
        raise MissingFileError(
            f"folder {folder} has no {run_files.CONFIG}; expected the output of a training run, or "
            "a portable folder with its manifest.json"
        )
    weights = folder / run_files.FINAL_CHECKPOINT
    pointer = folder / run_files.LAST_CHECKPOINT
    if pointer.is_file():  # a finished run that was continued has newer weights than its final ones
        newest = folder / pointer.read_text(encoding="utf-8").strip()
        weights = newest if newest.exists() else weights  # a sharded checkpoint is a folder
    if not weights.exists():
        raise MissingFileError(
            f"folder {folder} has {run_files.CONFIG} but no {weights.name}; train first, or give "
            f"{config_file} as the config and the weights separately"
        )
    cfg = read_config(str(config_file))
    OmegaConf.update(cfg, "train.init_checkpoint", literal(str(weights)), force_add=True)
    # The folder may have been moved since: its run is continued, and evaluated, where it is now.
    OmegaConf.update(cfg, "train.output_dir", literal(str(folder)), force_add=True)
    return cfg


def _near_configs(missing: Path) -> str:
    """Hint at what was meant by a config file that does not exist."""
    zoo_name = missing.with_suffix("").as_posix()
    if zoo_name in model_zoo.list_configs():
        return f" In the model zoo, {zoo_name} is the name of a config: leave out {missing.suffix}."
    if not missing.parent.is_dir():
        return f" There is no folder {str(missing.parent)!r} either."
    files = [file.name for file in sorted(missing.parent.iterdir()) if file.suffix in _SUFFIXES]
    return did_you_mean(missing.name, files)  # by their names: the folder is the same for all
