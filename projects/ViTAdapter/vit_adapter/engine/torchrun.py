"""Environment variables of ``torchrun`` and of launchers that set the same variables."""

import os

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.process_group import Process, check_gpus

__all__ = ["launched_process", "refuse_unconnected_processes", "restart_count"]

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_LOCAL_SIZE = "LOCAL_WORLD_SIZE"
_OTHER_LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
}
"""Variables with the number of processes, of launchers that do not set torchrun's variables.

SLURM's variables for a whole job, such as SLURM_NTASKS, are also set if it starts only one process.
"""
_UNSET = f"for a run without a launcher unset {', '.join(_PLACE)}."


def launched_process(device_type: str) -> Process | None:
    """Return the place that a launcher has given to this process, or None without a launcher.

    Clusters set some of these variables for every job. An address alone does not mean that there is
    a launcher, nor does a single process without ``LOCAL_RANK``: such a job starts its own
    processes.

    Args:
        device_type: "cpu", or "cuda" with one GPU for each process.

    Raises:
        UsageError: the variables are incomplete or contradict each other, or there are too few
            GPUs.
    """
    numbers = {name: _number(name) for name in _PLACE if os.environ.get(name)}
    if not numbers:
        return None
    missing = [name for name in (*_PLACE, *_ADDRESS) if not os.environ.get(name)]
    if missing and numbers.get("WORLD_SIZE") != 1:
        given = ", ".join(f"{name}={number}" for name, number in numbers.items())
        raise UsageError(
            f"the environment has {given} but no {', '.join(missing)}. A launcher such as torchrun "
            f"sets all of them; {_UNSET}"
        )
    rank, world_size, local_rank = (
        numbers.get(name, default) for name, default in zip(_PLACE, (0, 1, 0), strict=True)
    )
    local_size = _number(_LOCAL_SIZE) if os.environ.get(_LOCAL_SIZE) else None
    _check_range("WORLD_SIZE", world_size, 1)
    _check_range("RANK", rank, 0, world_size - 1)
    if local_size is not None:
        _check_range(_LOCAL_SIZE, local_size, 1, world_size)
    _check_range("LOCAL_RANK", local_rank, 0, (local_size or world_size) - 1)
    if "LOCAL_RANK" not in numbers:
        return None
    if "MASTER_PORT" not in missing:
        _check_range("MASTER_PORT", _number("MASTER_PORT"), 1, 65535)
    if device_type == "cuda":
        check_gpus(local_size or local_rank + 1, "the number of processes on this machine")
    # With several machines the counts may differ, because each counts only its own restarts.
    attempt = restart_count() if local_size == world_size else 0
    return Process(rank, world_size, local_rank, "env://", device_type, attempt)


def refuse_unconnected_processes() -> None:
    """Refuse to run as one of several processes that do not know each other.

    Each would train its own model and overwrite the files of the others. Call this if
    :func:`launched_process` returned None and the command line names no other machines.

    Raises:
        UsageError: another launcher has started several processes.
    """
    for name, launcher in _OTHER_LAUNCHERS.items():
        if os.environ.get(name) and _number(name) > 1:
            raise UsageError(
                f"{launcher} has started {os.environ[name]} processes ({name}), which do not know "
                "each other, so each would train its own model. Let it start torchrun once per "
                f"machine, and torchrun start train_net.py. For independent runs unset {name} and "
                "give each its own train.output_dir."
            )


def restart_count() -> int:
    """Return how often ``torchrun --max-restarts`` has restarted the processes of this machine."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _number(name: str) -> int:
    text = os.environ[name]
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(
            f"the environment has {name}={text!r}, expected a whole number; {_UNSET}"
        ) from error


def _check_range(name: str, number: int, least: int, most: int | None = None) -> None:
    if number < least or (most is not None and number > most):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        raise UsageError(
            f"the environment has {name}={number}, expected {expected} here "
            f"({', '.join(f'{key}={os.environ.get(key)}' for key in (*_PLACE, _LOCAL_SIZE))}); "
            f"{_UNSET}"
        )
