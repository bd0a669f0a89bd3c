"""Reading a config file with its overrides, and what it says about the device."""

import difflib
import os
from collections.abc import Sequence

import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError
from yaml import YAMLError

from vit_adapter.engine.errors import UsageError
from vit_adapter.engine.overrides import apply_overrides

__all__ = ["UsageError", "apply_overrides", "load_config", "read_config", "resolve_device"]


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


def resolve_device(cfg: DictConfig) -> torch.device:
    """Return the device of ``cfg.train.device``; ``"auto"`` is CUDA where there is a GPU.

    Raises:
        UsageError: an unknown device, or one that this machine or this PyTorch lacks.
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
    if device.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, ImportError) as error:
            raise UsageError(
                f"train.device={name} cannot be used here; use auto, cpu or cuda."
            ) from error
    return device


def _near_files(config_file: str) -> str:
    folder = os.path.dirname(config_file) or "."
    if not os.path.isdir(folder):
        return f" There is no folder {folder!r} either."
    names = [name for name in sorted(os.listdir(folder)) if name.endswith((".py", ".yaml"))]
    near = difflib.get_close_matches(os.path.basename(config_file), names, n=4, cutoff=0.4)
    if not near:
        return ""
    return f" Did you mean {', '.join(os.path.join(folder, name) for name in near)}?"
