"""The random numbers of a run: all follow from one seed, so none has to be stored."""

import logging
import os
import random
from collections.abc import Mapping

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from omegaconf import DictConfig

from vit_adapter.data.seeds import derive_seed

__all__ = ["RunSeed"]

logger = logging.getLogger(__name__)


class RunSeed(HookBase):
    """Draws the seed of a run if it has none, and seeds each step from it.

    At the start of a step Python, NumPy and PyTorch (CPU and GPU) are seeded from seed, iteration
    and process. A resumed run therefore draws the same numbers as one that was not interrupted,
    without any stored state of a generator. This hook comes first; hooks that need random numbers
    across steps should use their own generator.

    Checkpoints store the seed. A run with a drawn seed takes it from there when it is resumed.

    Args:
        options: the node ``train``. A negative ``seed`` is replaced by the one drawn, which all
            processes share.
    """

    def __init__(self, options: DictConfig) -> None:
        self._options = options
        self._drawn = options.seed < 0
        if self._drawn:
            drawn = int.from_bytes(os.urandom(4), "little") % 2**31
            self._use(comm.all_gather(drawn)[0], "drawn")

    def before_step(self) -> None:
        """Seed all generators for this iteration."""
        seed = derive_seed("step", self._options.seed, self.trainer.iter, comm.get_rank())
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def state_dict(self) -> dict[str, int]:
        """Return the seed."""
        return {"seed": self._options.seed}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Use the seed of the run that is resumed, unless the config has another."""
        seed = state_dict["seed"]
        if self._drawn:
            self._use(seed, "from the checkpoint")
        elif seed != self._options.seed:
            logger.warning(
                "train.seed is %d, but was %d before: from here on, the order of the images and "
                "all random numbers are others than in a run that was not resumed.",
                self._options.seed,
                seed,
            )

    def _use(self, seed: int, source: str) -> None:
        self._options.seed = seed
        logger.info("train.seed=%d (%s); give it to repeat this run.", seed, source)
