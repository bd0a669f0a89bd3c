"""The settings that decide the results in an output folder, from the configs there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from vit_adapter.checkpoint import run_files
from vit_adapter.config.loading import read_config

__all__ = ["Settings", "find_config", "read_settings"]

# What is written, and how often, does not change the model.
_WITHOUT_EFFECT = (
    "train.seed",
    "train.output_dir",
    "train.eval_period",
    "train.eval_pictures",
    "train.log_period",
    "train.checkpointer",
    "train.wandb",
    "train.mlflow",
)
_OF_EVALUATION = ("test", "dataloader.test", "dataloader.evaluator", "train.model_ema")


class Settings(NamedTuple):
    """How the results of a run came about.

    Attributes:
        values: settings of the training and the evaluation by dotted key, without the seed.
        seed: of the training; negative if it was drawn.
    """

    values: Mapping[str, Any]
    seed: int


def find_config(folder: Path) -> Path | None:
    """Return the config of the last evaluation in a folder, or of the training, or None."""
    files = (folder / name for name in (run_files.EVALUATION_CONFIG, run_files.CONFIG))
    return next((file for file in files if file.is_file()), None)


def read_settings(folder: Path) -> Settings | None:
    """Read the settings of an evaluation, and of the training that its weights come from.

    Returns:
        The settings; None if the config of the training is not found.

    Raises:
        UsageError: a config cannot be read.
    """
    file = find_config(folder)
    if file is None:
        return None
    evaluated = read_config(str(file))
    weights = folder / run_files.FINAL_CHECKPOINT
    named = OmegaConf.select(evaluated, "train.init_checkpoint")
    if file.name == run_files.EVALUATION_CONFIG and named:
        weights = Path(named)
        if weights.parent == Path(evaluated.train.output_dir):  # the folder may have been moved
            weights = folder / weights.name
    trained_file = weights.parent / run_files.CONFIG
    if not trained_file.is_file():
        return None
    trained = read_config(str(trained_file))
    values = _flatten(trained)
    for key in [key for key in values if _is_below(key, _WITHOUT_EFFECT + _OF_EVALUATION)]:
        del values[key]
    values |= {k: v for k, v in _flatten(evaluated).items() if _is_below(k, _OF_EVALUATION)}
    seed = OmegaConf.select(trained, "train.seed", default=-1)
    return Settings(values | {"weights": weights.name}, seed)


def _flatten(config: DictConfig) -> dict[str, Any]:
    """The values of a config by dotted key, with interpolations as they are written."""
    content = OmegaConf.to_container(config, resolve=False)
    values, open_nodes = {}, [("", content)]
    while open_nodes:
        prefix, node = open_nodes.pop()
        for key, value in node.items():
            if isinstance(value, dict) and value:
                open_nodes.append((f"{prefix}{key}.", value))
            else:
                values[f"{prefix}{key}"] = value
    return values


def _is_below(key: str, nodes: tuple[str, ...]) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in nodes)
