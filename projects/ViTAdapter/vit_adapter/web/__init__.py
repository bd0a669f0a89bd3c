"""The page of ``tools/web_demo.py``: models, uploads, results, and the page itself in Gradio."""

from vit_adapter.web.models import Models, Source
from vit_adapter.web.results import (
    MIN_SCORE,
    VIEWS,
    VIEWS_OF_PIXELS,
    Result,
    draw,
    entries,
    predict,
    table,
    views,
)
from vit_adapter.web.uploads import read_upload

__all__ = [
    "MIN_SCORE",
    "VIEWS",
    "VIEWS_OF_PIXELS",
    "Models",
    "Result",
    "Source",
    "draw",
    "entries",
    "predict",
    "read_upload",
    "table",
    "views",
]
