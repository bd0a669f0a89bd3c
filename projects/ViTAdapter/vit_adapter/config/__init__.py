"""Configs: loading, overrides, custom data, and the model that they describe."""

from vit_adapter.config.device import resolve_device
from vit_adapter.config.errors import MissingFileError, UsageError
from vit_adapter.config.loading import load_config, resolve_config
from vit_adapter.config.model import build_model
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.config.own_data import apply_custom_data

__all__ = [
    "MissingFileError",
    "UsageError",
    "apply_custom_data",
    "apply_overrides",
    "build_model",
    "load_config",
    "resolve_config",
    "resolve_device",
]
