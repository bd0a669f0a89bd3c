"""Layouts of the original's checkpoints: each maps the names of one kind of model to ours."""

from vit_adapter.checkpoint.original.layouts.table import (
    KNOWN_MODELS,
    UNSUPPORTED,
    layout_of_ours,
    layout_of_theirs,
)

__all__ = ["KNOWN_MODELS", "UNSUPPORTED", "layout_of_ours", "layout_of_theirs"]
