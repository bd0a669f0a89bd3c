"""The writer for MLflow: ``train.mlflow``."""

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vit_adapter.engine.trackers.tracker import RunIds, Tracker

__all__ = ["MlflowWriter"]

# All processes wait while the main process talks to the server. With MLflow's own defaults it
# would try for up to 20 minutes, longer than NCCL lets the others wait.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MlflowWriter(Tracker):
    """Sends a run to an MLflow server, or to the store that ``tracking_uri`` names.

    The config goes there as the run's parameters and, since these cannot change when a run is
    resumed, also as the file ``config.yaml``.

    Args:
        params: ``tracking_uri`` and ``experiment_name``, where None leaves the choice to MLflow;
            the others are arguments of ``mlflow.start_run``.
        config: the resolved config as plain values.
        config_text: the config as YAML.
        ids: of the run that is continued; the one of a new run is stored there.
        failed: see :class:`Tracker`.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        *,
        config: Mapping[str, Any],
        config_text: str,
        ids: RunIds,
        failed: Callable[[], bool],
    ) -> None:
        super().__init__("MLflow", failed=failed)
        for variable, value in _PATIENCE.items():
            os.environ.setdefault(variable, value)
        import mlflow

        self._mlflow = mlflow
        arguments = dict(params)
        tracking_uri = arguments.pop("tracking_uri", None)
        experiment_name = arguments.pop("experiment_name", None)
        if tracking_uri is not None:
            mlflow.set_tracking_uri(tracking_uri)
        if experiment_name is not None:
            mlflow.set_experiment(experiment_name)
        known = ids.get("mlflow")
        if known is not None:
            arguments["run_id"] = known
        mlflow.start_run(**arguments)
        try:
            if known is None:
                mlflow.log_params({_allowed(key): value for key, value in _flatten(config)})
            mlflow.log_text(config_text, "config.yaml")
        except Exception:  # of the library, the network or the server
            mlflow.end_run("FAILED")
            raise
        ids.store("mlflow", mlflow.active_run().info.run_id)

    def _send(
        self, scalars: Mapping[str, float], images: Mapping[str, np.ndarray], iteration: int
    ) -> None:
        metrics = {_allowed(name): value for name, value in scalars.items()}
        self._mlflow.log_metrics(metrics, step=iteration, synchronous=True)
        for name, image in images.items():
            self._mlflow.log_image(image, key=_allowed(name), step=iteration, synchronous=True)

    def _finish(self, *, failed: bool) -> None:
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


def _allowed(name: str) -> str:
    """Replace what MLflow refuses in names, such as the comma in "AP-screen, door"."""
    return posixpath.normpath(re.sub(r"[^\w.\- /]", "_", name))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings under dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
