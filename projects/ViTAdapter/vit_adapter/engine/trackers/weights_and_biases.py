"""The writer for Weights & Biases: ``train.wandb``."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vit_adapter.engine.trackers.tracker import RunIds, Tracker

__all__ = ["WandbWriter"]

logger = logging.getLogger(__name__)

_ITERATION = "iteration"


class WandbWriter(Tracker):
    """Sends a run to Weights & Biases.

    A server that cannot be reached at the start, or a missing key, makes the run an offline one,
    which ``wandb sync`` sends later. While the run lasts, the library itself keeps what it cannot
    send.

    Args:
        params: arguments of ``wandb.init``; ``dir`` is the output folder by default.
        config: the resolved config as plain values.
        output_dir: folder of the run.
        ids: of the run that is continued; the one of a new run is stored there.
        failed: see :class:`Tracker`.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        *,
        config: Mapping[str, Any],
        output_dir: str,
        ids: RunIds,
        failed: Callable[[], bool],
    ) -> None:
        super().__init__("Weights & Biases", failed=failed)
        import wandb

        self._wandb = wandb
        arguments = {"dir": output_dir, "id": ids.get("wandb"), "resume": "allow", **params}
        try:
            self._run = wandb.init(**arguments)
        except wandb.Error as error:
            self._run = wandb.init(**{**arguments, "mode": "offline"})
            logger.warning(
                "Weights & Biases cannot be used online (%s), so the run is recorded in %s; "
                "send it later with: wandb sync %s",
                error,
                *[self._run.settings.sync_dir] * 2,
            )
        ids.store("wandb", self._run.id)
        self._run.config.update(config, allow_val_change=True)  # a resumed run may change it
        # Not wandb's own steps: they never go back, as a resumed run does.
        self._run.define_metric("*", step_metric=_ITERATION)

    def _send(
        self, scalars: Mapping[str, float], images: Mapping[str, np.ndarray], iteration: int
    ) -> None:
        pictures = {name: self._wandb.Image(image) for name, image in images.items()}
        self._run.log({**scalars, **pictures, _ITERATION: iteration})

    def _finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
