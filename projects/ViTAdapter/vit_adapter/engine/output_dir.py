"""Output folders that are not empty: the files of an earlier or interrupted run."""

import json
import logging
import os
import shutil
from pathlib import Path

from detectron2.utils import comm
from omegaconf import DictConfig

from vit_adapter.checkpoint import run_files
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.setup import save_config
from vit_adapter.utils.atomic import TEMPORARY_MARK, atomic_open

__all__ = [
    "claim_output_dir",
    "describe_earlier_runs",
    "drop_unsaved_progress",
    "follow_weights",
    "refuse_restart",
    "set_previous_run_aside",
]

logger = logging.getLogger(__name__)


def claim_output_dir(cfg: DictConfig, start_iter: int) -> str:
    """Prepare the output folder for training; every process calls this.

    The files of an earlier run are moved aside, unless it is continued, and the config is saved.
    Read the weights to start from before this, because they may be among these files.

    Args:
        cfg: the whole config; paths of weights in it are updated if the files move.
        start_iter: iteration at which training starts or continues.

    Returns:
        ``train.output_dir``.
    """
    output_dir = cfg.train.output_dir
    comm.synchronize()
    if comm.is_main_process():
        if not start_iter:
            follow_weights(cfg.train, set_previous_run_aside(output_dir))
        drop_unsaved_progress(output_dir, start_iter)
    save_config(cfg, output_dir)
    comm.synchronize()
    return output_dir


def refuse_restart(output_dir: str | os.PathLike[str], restarts: int) -> None:
    """Refuse to start from scratch when a launcher repeats a command that failed.

    Call this if nothing is resumed. Without it, each failure would move the last attempt's
    checkpoints aside and training would never progress.

    Args:
        output_dir: the folder, which need not exist.
        restarts: how often the launcher has repeated the command.

    Raises:
        UsageError: the command was repeated, and the folder holds checkpoints.
    """
    if restarts and holds_run(Path(output_dir)):
        raise UsageError(
            f"torchrun has restarted this command after a failure (restart {restarts}), and "
            f"{output_dir} contains checkpoints; without --resume, training would start from "
            "scratch. Add --resume to the command: it continues from the last checkpoint if there "
            "is one, and starts a new run otherwise."
        )


def set_previous_run_aside(output_dir: str | os.PathLike[str]) -> Path | None:
    """Move the files of an earlier run or evaluation to ``previous_run_<n>`` inside the folder.

    Detectron2 overwrites them when a command is repeated without ``--resume``, which can cost days
    of training. Moving them is quick and loses nothing.

    Args:
        output_dir: the folder, which need not exist.

    Returns:
        The folder with the earlier run, or None if there was none.
    """
    folder = Path(output_dir)
    if not holds_run(folder) and not (folder / run_files.RESULTS).exists():
        return None
    number = 1
    while (folder / f"{run_files.SET_ASIDE}{number}").exists():
        number += 1
    aside = folder / f"{run_files.SET_ASIDE}{number}"
    aside.mkdir()
    for pattern in run_files.PATTERNS:
        for file in sorted(folder.glob(pattern)):
            _move(file, aside)
    logger.warning(
        "%s contained an earlier run or evaluation. Its files are now in %s. Use --resume to "
        "continue a run.",
        folder,
        aside,
    )
    return aside


def describe_earlier_runs(output_dir: str | os.PathLike[str]) -> str:
    """Say where the runs are that were moved aside in a folder; "" if there are none."""
    found = sorted(Path(output_dir).glob(f"{run_files.SET_ASIDE}*/{run_files.LAST_CHECKPOINT}"))
    if not found:
        return ""
    folders = ", ".join(str(file.parent) for file in found)
    return (
        f" Earlier runs were moved to {folders}; to continue one, give that folder as "
        "train.output_dir."
    )


def follow_weights(options: DictConfig, aside: Path | None) -> None:
    """Update ``init_checkpoint`` and ``vit_checkpoint`` if the files that they name have moved.

    The saved config then names the weights that the run started from. A warning tells the user,
    because the same command would no longer find them.

    Args:
        options: the node ``train``, changed in place.
        aside: the result of :func:`set_previous_run_aside`.
    """
    for key in ("init_checkpoint", "vit_checkpoint"):
        path = Path(options.get(key) or "").resolve()  # follows a link to its file
        moved = aside / path.name if aside and path.parent == aside.parent.resolve() else None
        if moved and moved.exists():
            options[key] = str(moved)
            logger.warning(
                "train.%s was among these files. To start from the same weights again, "
                "use train.%s=%s.",
                key,
                key,
                options[key],
            )


def drop_unsaved_progress(output_dir: str | os.PathLike[str], start_iter: int) -> None:
    """Delete what an interrupted run wrote after its last checkpoint.

    That is, half-written temporary files and folders and, in ``metrics.json``, the lines of
    iterations that will be computed again and a truncated last line.

    Args:
        output_dir: folder of the run.
        start_iter: iteration at which training starts or continues.
    """
    folder = Path(output_dir)
    for file in folder.glob(f".*{TEMPORARY_MARK}*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    metrics = folder / run_files.METRICS
    if not metrics.is_file():
        return
    lines = metrics.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _iteration(line) < start_iter]
    if kept != lines:
        with atomic_open(metrics) as stream:
            stream.writelines(f"{line}\n" for line in kept)


def _move(file: Path, folder: Path) -> None:
    """Move a file; a link still points to the same file afterwards."""
    target = file.resolve()
    if file.is_symlink() and target.parent != file.parent.resolve():
        (folder / file.name).symlink_to(target)
        file.unlink()
    else:
        file.rename(folder / file.name)


def holds_run(folder: Path) -> bool:
    """Whether a folder has checkpoints of a run."""
    patterns = (run_files.CHECKPOINTS, run_files.SHARDED_CHECKPOINTS, run_files.LAST_CHECKPOINT)
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # cut off
