"""The original's checkpoints: for each kind one layout, which says what its names are here."""

from vit_adapter.checkpoint.original.layouts.table import (
    KNOWN_MODELS,
    UNSUPPORTED,
    layout_of_ours,
    layout_of_theirs,
)

__all__ = ["KNOWN_MODELS", "UNSUPPORTED", "layout_of_ours", "layout_of_theirs"]
