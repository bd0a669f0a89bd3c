"""Hooks of the trainer that Detectron2's own do not cover."""

import os
from collections.abc import Callable, Mapping

from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

__all__ = ["EvaluationHook", "PeriodicCheckpointer"]


class EvaluationHook(HookBase):
    """Evaluate every ``period`` iterations and after the last one, never after a failure.

    Detectron2's ``EvalHook`` tells success by the iteration count and therefore evaluates a model
    whose very last iteration failed.

    Args:
        period: iterations between evaluations; 0 for only after the last one.
        evaluate: returns task -> metric -> value; called by all processes.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], Mapping[str, Mapping[str, float]]]
    ) -> None:
        self._period = period
        self._evaluate = evaluate

    def after_step(self) -> None:
        """Evaluate if it is time; the last iteration is left to :meth:`after_train`."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter:
            self._run()

    def after_train(self) -> None:
        """Evaluate the finished model."""
        if not self.trainer.failed:
            self._run()

    def _run(self) -> None:
        results = self._evaluate()
        self.trainer.storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        # Processes finish at different times; none waits for the next batch of another.
        comm.synchronize()


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook, which after a resumption also removes checkpoints written before it."""

    def before_train(self) -> None:
        """Count the checkpoints that are already there as the oldest ones."""
        super().before_train()
        if self.max_to_keep is not None:
            prefix = f"{self.file_prefix}_"
            self.recent_checkpoints = sorted(
                file
                for file in self.checkpointer.get_all_checkpoint_files()
                if os.path.basename(file).removeprefix(prefix).removesuffix(".pth").isdigit()
            )
