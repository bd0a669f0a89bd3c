"""What the writers for Weights & Biases and MLflow share."""

import json
import logging
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from detectron2.utils.events import EventWriter, get_event_storage

from vit_adapter.checkpoint import run_files
from vit_adapter.utils.atomic import atomic_open

__all__ = ["RunIds", "Tracker"]

logger = logging.getLogger(__name__)

_WINDOW = 20
"""Noisy scalars are the median over so many iterations, as in ``metrics.json``."""


class RunIds:
    """The names under which trackers know a run, kept in a file of its output folder.

    Args:
        output_dir: folder of the run.
        resumed: whether the run continues; otherwise, names that are found belong to an earlier
            run and are not used.
    """

    def __init__(self, output_dir: str, *, resumed: bool) -> None:
        self._file = Path(output_dir) / run_files.TRACKERS
        self._ids: dict[str, str] = {}
        if resumed and self._file.exists():
            try:
                self._ids = json.loads(self._file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                logger.warning(
                    "%s cannot be read (%s), so new runs are started at the trackers.",
                    self._file,
                    error,
                )

    def get(self, tracker: str) -> str | None:
        """Return the name of the run to continue; None for a new one."""
        return self._ids.get(tracker)

    def store(self, tracker: str, run_id: str) -> None:
        """Keep the name of a run, so that ``--resume`` continues it."""
        self._ids[tracker] = run_id
        with atomic_open(self._file) as stream:
            json.dump(self._ids, stream, indent=2)
            stream.write("\n")


class Tracker(EventWriter):
    """Sends scalars and images to a tracker; each of them once, with its iteration.

    An error of the tracker does not stop the training: it is logged once, and nothing more is sent.

    Images stay in the storage, where Detectron2's ``TensorboardXWriter`` removes them. That writer
    must therefore come later in the list of writers.

    Args:
        name: of the tracker, for messages.
        failed: tells, when the run ends, whether it failed.
    """

    def __init__(self, name: str, *, failed: Callable[[], bool]) -> None:
        self._name = name
        self._failed = failed
        self._last_iteration = -1
        self._is_broken = False

    def write(self) -> None:
        """Send what is new in Detectron2's storage, iteration by iteration."""
        if self._is_broken:
            return
        storage = get_event_storage()
        scalars: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last_iteration:
                scalars[iteration][name] = value
        images: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
        for name, image, iteration in storage._vis_data:  # as Detectron2's own writer reads them
            images[iteration][name] = _as_pixels(image)
        if scalars:
            self._last_iteration = max(scalars)
        try:
            for iteration in sorted({*scalars, *images}):
                self._send(scalars.get(iteration, {}), images.get(iteration, {}), iteration)
        except Exception as error:  # of the library, the network or the server
            self._give_up(error)

    def close(self) -> None:
        """End the run at the tracker, as finished or failed."""
        if self._is_broken:
            return
        try:
            self._finish(failed=self._failed())
        except Exception as error:  # as above
            self._give_up(error)

    @abstractmethod
    def _send(
        self, scalars: Mapping[str, float], images: Mapping[str, np.ndarray], iteration: int
    ) -> None:
        """Send scalars, and images (H, W, 3) of uint8 RGB, of one iteration."""

    @abstractmethod
    def _finish(self, *, failed: bool) -> None:
        """End the run; called once."""

    def _give_up(self, error: Exception) -> None:
        self._is_broken = True
        logger.warning(
            "%s failed, so nothing more is sent to it: %s: %s. The training is not affected, and "
            "%s in the output folder has all scalars. --resume tries again.",
            self._name,
            type(error).__name__,
            error,
            run_files.METRICS,
        )


def _as_pixels(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """Convert (3, H, W), uint8 or floats in 0..1, to (H, W, 3) uint8."""
    image = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    pixels = np.moveaxis(image, 0, -1)
    return pixels if pixels.dtype == np.uint8 else (255 * pixels).round().astype(np.uint8)
