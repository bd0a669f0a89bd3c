"""Which trackers a config asks for."""

import importlib
import importlib.util
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.utils.events import EventWriter
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.errors import UsageError
from vit_adapter.config.saving import dump_config, plain_config
from vit_adapter.engine.trackers.mlflow_runs import MlflowWriter
from vit_adapter.engine.trackers.tracker import RunIds
from vit_adapter.engine.trackers.weights_and_biases import WandbWriter

__all__ = ["build_trackers", "check_trackers"]

logger = logging.getLogger(__name__)

# The function whose arguments are `params`, and what `params` may hold in addition.
_FUNCTIONS = {
    "wandb": ("init", set()),
    "mlflow": ("start_run", {"tracking_uri", "experiment_name"}),
}


def check_trackers(cfg: DictConfig) -> None:
    """Check, before anything is built, that the trackers that a config enables can be used.

    Args:
        cfg: a config with ``train``; ``train.wandb`` and ``train.mlflow`` may be missing.

    Raises:
        UsageError: the library is not installed, or has no parameter of this name.
    """
    for name, (function, own) in _FUNCTIONS.items():
        params = _params(cfg, name)
        if params is None:
            continue
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"train.{name}.enabled=True needs the package {name}, which is not installed: "
                f"pip install {name}"
            )
        known = {*inspect.signature(getattr(importlib.import_module(name), function)).parameters}
        unknown = sorted({*params} - known - own)
        if unknown:
            raise UsageError(
                f"train.{name}.params has {', '.join(unknown)}, which {name}.{function} does not "
                f"know; expected some of {', '.join(sorted(known | own))}."
            )


def build_trackers(
    cfg: DictConfig, output_dir: str, *, resumed: bool, failed: Callable[[], bool]
) -> list[EventWriter]:
    """Start the trackers that a config enables; only the main process calls this.

    One that cannot be started is left out with a warning, because a run may start, or be resumed,
    while a server cannot be reached.

    Args:
        cfg: the whole config, checked by :func:`check_trackers`.
        output_dir: folder of the run, which holds the names of the runs to continue.
        resumed: whether the run continues.
        failed: tells, when the run ends, whether it failed.
    """
    ids = RunIds(output_dir, resumed=resumed)
    shared: dict[str, Any] = dict(ids=ids, failed=failed)
    starts = {
        "wandb": lambda params: WandbWriter(
            params, config=plain_config(cfg), output_dir=output_dir, **shared
        ),
        "mlflow": lambda params: MlflowWriter(
            params, config=plain_config(cfg), config_text=dump_config(cfg)[0], **shared
        ),
    }
    result = []
    for name, start in starts.items():
        params = _params(cfg, name)
        if params is None:
            continue
        try:
            result.append(start(params))
        except Exception as error:  # of the library, the network or the server
            logger.warning(
                "train.%s: %s could not be started, so this run is trained without it: %s: %s. "
                "--resume tries again.",
                name,
                name,
                type(error).__name__,
                error,
            )
    return result


def _params(cfg: DictConfig, name: str) -> Mapping[str, Any] | None:
    """The parameters of a tracker that are not empty; None if it is not enabled."""
    node = OmegaConf.select(cfg, f"train.{name}", default=None) or {}
    if not node.get("enabled", False):
        return None
    params = OmegaConf.to_container(node.get("params") or OmegaConf.create({}), resolve=True)
    return {key: value for key, value in params.items() if value not in ("", None)}
