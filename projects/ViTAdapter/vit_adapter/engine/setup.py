"""Preparations for a run: logging, seeds, saving the config."""

import logging
import os
from argparse import Namespace

from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from vit_adapter.checkpoint.run_files import CONFIG
from vit_adapter.config.errors import UsageError
from vit_adapter.config.saving import dump_config
from vit_adapter.ops import extension_info
from vit_adapter.utils.atomic import atomic_open

__all__ = [
    "LOGGERS",
    "save_config",
    "seed_data",
    "seed_model",
    "set_up_logging",
    "stated_output_dir",
]

logger = logging.getLogger(__name__)

LOGGERS = ("fvcore", "detectron2", "vit_adapter")
"""Names of the loggers that write to the terminal."""

_SEED_STRIDE = 1_000_003
"""Distance between the seeds of successive starts: a prime, so no two processes share a seed."""


def set_up_logging(cfg: DictConfig, arguments: Namespace) -> None:
    """Create the output folder, log to the terminal and to ``log.txt``, and log the environment.

    Raises:
        UsageError: the config names no output folder.
    """
    output_dir = stated_output_dir(cfg)
    if comm.is_main_process():
        os.makedirs(output_dir, exist_ok=True)
    comm.synchronize()
    rank = comm.get_rank()
    for name in LOGGERS:
        setup_logger(output_dir, distributed_rank=rank, name=name)
    # The table below imports this module, which warns if CUDA's compiler is installed but there is
    # no GPU. The table shows that anyway.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    logger.info("Process %d of %d", rank, comm.get_world_size())
    logger.info("Environment:\n%s", collect_env_info())
    logger.info("Extension: %s", extension_info())
    logger.info("Command line: %s", arguments)


def stated_output_dir(cfg: DictConfig) -> str:
    """Return ``train.output_dir``.

    Raises:
        UsageError: the config names no output folder.
    """
    output_dir = cfg.train.output_dir
    if not output_dir:
        raise UsageError(
            f"train.output_dir is {output_dir!r}, expected a folder for the files of the run; "
            "write ./null for a folder that is called null."
        )
    return output_dir


def save_config(cfg: DictConfig, output_dir: str, name: str = CONFIG) -> None:
    """Write the whole config as YAML, which ``--config-file`` reads again; main process only.

    What YAML cannot store is left out with a warning (:mod:`vit_adapter.config.saving`).
    """
    if not comm.is_main_process():
        return
    target = os.path.join(output_dir, name)
    text, left_out = dump_config(cfg)
    with atomic_open(target) as stream:
        stream.write(text)
    logger.info("Config saved to %s", target)
    if left_out:
        logger.warning(
            "%s does not contain %s, because YAML cannot store it. Use the original config file "
            "instead.",
            target,
            ", ".join(left_out),
        )


def seed_model(seed: int) -> None:
    """Seed everything before the model is built.

    Every process uses the same seed, so runs with the same seed start from the same weights
    whatever their number of processes.

    Args:
        seed: below 0 for a random one.
    """
    seed_all_rng(None if seed < 0 else seed % 2**32)  # the range of NumPy


def seed_data(seed: int, start_iter: int) -> None:
    """Seed everything before the data loader is built, differently in every process.

    Loaders other than :class:`vit_adapter.data.TrainLoader` draw from these generators.

    Args:
        seed: below 0 keeps the random seeds of :func:`seed_model`.
        start_iter: iteration at which training starts, so that a resumed run does not repeat the
            same images in the same order.
    """
    if seed >= 0:
        seed_all_rng((seed + comm.get_rank() + _SEED_STRIDE * start_iter) % 2**31)
