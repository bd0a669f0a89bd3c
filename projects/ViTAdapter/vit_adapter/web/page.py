"""The page itself, in Gradio, which is not among the package's requirements.

Only this module imports Gradio. What the page shows is computed in the modules beside it.
"""

import html
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Gradio reads this when it is imported: no reports to its authors.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

# ruff: noqa: E402
import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache

from vit_adapter.drawing import as_rgb
from vit_adapter.web.models import Models
from vit_adapter.web.results import (
    MIN_SCORE,
    VIEWS_OF_PIXELS,
    Result,
    draw,
    entries,
    predict,
    table,
    views,
)
from vit_adapter.web.uploads import read_upload

__all__ = ["Page"]

_QUEUE_LENGTH = 20  # requests that may wait; further ones are told that the page is busy
_VISITORS = 20  # whose last prediction is kept
_KEEP_SECONDS = 3600  # until uploads, pictures and predictions are deleted
_NO_ROWS = {"headers": ["class", "score"], "data": []}

logger = logging.getLogger(__name__)


class Page:
    """A page that predicts on the image of a visitor.

    Requests are queued and served one at a time, because the memory is that of one prediction.

    Args:
        models: what can be chosen.
        max_megapixels: larger images are refused.
    """

    def __init__(self, models: Models, *, max_megapixels: float) -> None:
        self._models = models
        self._max_megapixels = max_megapixels
        self.blocks = gr.Blocks(
            title="ViT-Adapter", analytics_enabled=False, delete_cache=(_KEEP_SECONDS,) * 2
        )
        with self.blocks:
            self._lay_out()
            self._connect()
        self.blocks.queue(max_size=_QUEUE_LENGTH)

    def launch(self, *, host: str, port: int | None, max_megabytes: int) -> str:
        """Serve the page in the background.

        Args:
            host: address to serve at.
            port: port to serve at; None for a free one.
            max_megabytes: larger files are refused.

        Returns:
            The address of the page.

        Raises:
            OSError: the port is in use.
        """
        _, url, _ = self.blocks.launch(
            server_name=host,
            server_port=port,
            max_file_size=max_megabytes * 1024 * 1024,
            state_session_capacity=_VISITORS,
            prevent_thread_lock=True,
            # Nothing from outside, and no way in from there: fonts, tunnel, a second server.
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            share=False,
            ssr_mode=False,
            footer_links=[],
            quiet=True,
        )
        return url

    def wait(self) -> None:
        """Wait for Ctrl-C, then stop the page."""
        self.blocks.block_thread()

    def _lay_out(self) -> None:
        names = self._models.names
        gr.Markdown("# ViT-Adapter\nUpload an image, choose a model and press *Predict*.")
        self._result = gr.State(None, time_to_live=_KEEP_SECONDS)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self._upload = gr.File(label="Image", file_types=["image", ".npy"], height=140)
                self._model = gr.Dropdown(names, value=names[0], label="Model")
                self._button = gr.Button("Predict", variant="primary")
                self._view = gr.Radio([], label="Show")
                self._threshold = gr.Slider(
                    MIN_SCORE, 1.0, value=0.5, step=0.05, label="Lowest score of boxes and masks"
                )
            with gr.Column(scale=2, min_width=400):
                self._picture = gr.Image(
                    label="Picture",
                    format="jpeg",
                    interactive=False,
                    buttons=["download", "fullscreen"],  # a third one would share it online
                )
                self._status = gr.Textbox(label="Result", interactive=False)
                self._table = gr.Dataframe(_NO_ROWS, label="Found", interactive=False)
                self._download = gr.DownloadButton("Download as JSON", interactive=False)

    def _connect(self) -> None:
        shown = [self._picture, self._status, self._table, self._download]
        everything = [self._result, self._view, self._threshold, *shown]
        options = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "show_progress_on": self._picture,  # and errors, instead of on every part
        }
        self._upload.change(self.show_upload, [self._upload, self._model], everything, **options)
        self._button.click(
            self.predict, [self._upload, self._model, self._threshold], everything, **options
        )
        chosen = [self._result, self._view, self._threshold]
        options["trigger_mode"] = "always_last"  # the last position of the slider counts
        self._view.input(self.show_view, chosen, [self._threshold, *shown], **options)
        self._threshold.input(self.show, chosen, shown, **options)

    def show_upload(self, path: str | None, model: str) -> list[Any]:
        """Show the image as the model gets it, and remove what the last one has left."""
        picture, status = None, ""
        if path is not None:
            with _errors_on_the_page():
                image = self._read(path, model)
            picture = as_rgb(image)
            status = f"{Path(path).name}: {image.shape[1]} x {image.shape[0]} pixels"
        no_file = gr.DownloadButton(value=None, interactive=False)
        no_view = gr.Radio([], value=None)
        return [None, no_view, _slider(None), picture, status, _NO_ROWS, no_file]

    def predict(self, path: str | None, model: str, threshold: float) -> list[Any]:
        """Predict on the image with a model, and show the result."""
        with _errors_on_the_page():
            image = self._read(path, model)
            predictor = self._models.get(model)
            result = predict(predictor, image, file_name=Path(path).name, model=model)
        fitting = views(result)
        view = gr.Radio(fitting, value=fitting[0])
        return [result, view, *self.show_view(result, fitting[0], threshold)]

    def _read(self, path: str | None, model: str) -> np.ndarray:
        image_format = self._models.image_format(model)
        return read_upload(path, image_format, max_megapixels=self._max_megapixels)

    def show_view(self, result: Result | None, view: str | None, threshold: float) -> list[Any]:
        """Show a view as :meth:`show` does, with the slider in the state that fits the view."""
        return [_slider(view), *self.show(result, view, threshold)]

    def show(self, result: Result | None, view: str | None, threshold: float) -> list[Any]:
        """Show a view of the last result of this visitor; the model does not run again."""
        if result is None or view is None:  # none yet, or it is no longer kept
            return [gr.skip()] * 4
        shown = entries(result, view, threshold)
        headers, rows = table(shown, view)
        # Gradio deletes old files from its own folder only.
        content, folder = json.dumps(shown).encode(), self._download.GRADIO_CACHE
        file = save_bytes_to_cache(content, "predictions.json", folder)
        return [
            draw(result, view, threshold),
            f"{result.title}: {len(shown)} found",
            {"headers": headers, "data": rows},
            gr.DownloadButton(value=file, interactive=True),
        ]


def _slider(view: str | None) -> gr.Slider:
    """Return the update of the slider for a view: it cannot be moved where it changes nothing."""
    return gr.Slider(interactive=view not in VIEWS_OF_PIXELS)


@contextmanager
def _errors_on_the_page() -> Iterator[None]:
    """Turn errors that explain themselves into messages on the page, without a traceback."""
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        logger.error("%s", error)
        # Gradio shows the text as HTML, and names of files come from visitors.
        text = html.escape(str(error))
        raise gr.Error(text, duration=None, print_exception=False) from error
