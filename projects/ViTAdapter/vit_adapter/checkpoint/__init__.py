"""Reading and writing weights: no code is run, every name is checked, writes are atomic."""

from vit_adapter.checkpoint.files import (
    CheckpointFileError,
    load_checkpoint_file,
    load_state_dict_file,
)
from vit_adapter.checkpoint.loading import CheckpointMismatchError, LoadReport, load_strict
from vit_adapter.utils.atomic import atomic_save

__all__ = [
    "CheckpointFileError",
    "CheckpointMismatchError",
    "LoadReport",
    "atomic_save",
    "load_checkpoint_file",
    "load_state_dict_file",
    "load_strict",
]
