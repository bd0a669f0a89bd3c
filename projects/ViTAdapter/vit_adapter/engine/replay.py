"""What is needed to repeat a training step whose loss is not finite, in files.

``tools/replay.py`` reads them.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.plain_data import to_plain
from vit_adapter.checkpoint.run_files import NON_FINITE
from vit_adapter.config.saving import dump_config
from vit_adapter.config.weights import base_weights, stores_trained_only
from vit_adapter.engine.parallel import gather_state, is_sharded, unwrap
from vit_adapter.utils.atomic import atomic_save

__all__ = ["ReplayWriter", "random_states"]

logger = logging.getLogger(__name__)


def random_states(device_type: str) -> dict[str, Tensor]:
    """Return the states of PyTorch's generators, on the CPU; nothing waits for the device."""
    states = {"cpu": torch.get_rng_state()}
    if device_type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states


class ReplayWriter(HookBase):
    """Writes the batch, random states and weights of a step that failed.

    The weights are stored once, the rest once per process with a loss that is not finite. The
    files of an earlier failure are removed, so they never add up.

    Args:
        cfg: the whole config.
        output_dir: folder for the files.
    """

    def __init__(self, cfg: DictConfig, output_dir: str) -> None:
        self._cfg = cfg
        self._folder = Path(output_dir)

    def write(
        self,
        micro_batches: Sequence[Sequence[Mapping[str, object]]],
        losses: Sequence[Mapping[str, float]],
        states: Mapping[str, Tensor],
        *,
        failed: bool = True,
        alone: bool = False,
    ) -> str:
        """Write the files of this process; errors are logged, because the run ends by another one.

        Args:
            micro_batches: the step's batch of this process.
            losses: those of each micro-batch; fewer if the forward pass has raised an error.
            states: :func:`random_states` before the first forward pass.
            failed: whether this process has a loss that is not finite.
            alone: whether the other processes do not call this.

        Returns:
            The file of this process; "" if there is none.
        """
        if alone and is_sharded(self.trainer.model):
            logger.error(
                "No files to repeat this step are written: with train.parallel=fsdp, one process "
                "alone does not have the weights."
            )
            return ""
        name = f"{NON_FINITE}{self.trainer.iter:07d}"
        file = self._folder / f"{name}_process_{comm.get_rank()}.pth"
        try:
            self._write_weights(name, alone=alone)
            if not failed:
                return ""
            content = self._describe(micro_batches, losses, states)
            atomic_save({**content, "weights": f"{name}.pth"}, file)
        except Exception:  # of any kind; the failure that is being recorded is the one to raise
            logger.exception("The files to repeat this step could not be written to %s.", file)
            return ""
        return str(file)

    def _write_weights(self, name: str, *, alone: bool) -> None:
        checkpointer = Checkpointer(
            unwrap(self.trainer.model),
            str(self._folder),
            gather=dict if alone else gather_state,
            base=base_weights(self._cfg),
            trained_only=stores_trained_only(self._cfg),
        )
        if alone or comm.is_main_process():
            checkpointer.save_to_disk = True
            for earlier in self._folder.glob(f"{NON_FINITE}*"):
                if not earlier.name.startswith(name):
                    earlier.unlink(missing_ok=True)
        checkpointer.save(name, as_last=False, iteration=self.trainer.iter)

    def _describe(
        self,
        micro_batches: Sequence[Sequence[Mapping[str, object]]],
        losses: Sequence[Mapping[str, float]],
        states: Mapping[str, Tensor],
    ) -> dict[str, object]:
        trainer = self.trainer
        precision = trainer.precision
        modules = unwrap(trainer.model).named_modules()
        return {
            "iteration": trainer.iter,
            "process": comm.get_rank(),
            "num_processes": comm.get_world_size(),
            "seed": self._cfg.train.seed,
            "learning_rates": sorted({group["lr"] for group in trainer.optimizer.param_groups}),
            "config": dump_config(self._cfg)[0],
            "autocast": str(precision.dtype).removeprefix("torch.") if precision.enabled else "",
            "device": precision.device_type,
            "loss_normalization": trainer.loss_normalization.mode,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "random_states": dict(states),
            "in_evaluation_mode": [name for name, module in modules if not module.training],
            "micro_batches": to_plain([list(batch) for batch in micro_batches]),
            "losses": [dict(part) for part in losses],
        }
