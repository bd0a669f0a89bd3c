"""The training loop: the phases of an iteration, and what stops training."""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.finite import FiniteCheck
from vit_adapter.engine.loss_normalization import LossNormalization
from vit_adapter.engine.optimizer_state import check_optimizer_state, describe_optimizer
from vit_adapter.engine.parallel import gradient_exchange, load_optimizer_state
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.replay import ReplayWriter, random_states
from vit_adapter.engine.step_metrics import LossValues, StepMetrics
from vit_adapter.layers.image_random import image_seeds

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

_REPLAY = "python projects/ViTAdapter/tools/replay.py"

Batch = Sequence[Mapping[str, Any]]
"""Detectron2's input dicts, of one iteration or of a micro-batch."""


class Trainer(TrainerBase):
    """Detectron2's training loop with hooks, for any precision, device and Detectron2 version.

    An iteration has five phases, each a method: :meth:`next_batch`, :meth:`split`, then
    :meth:`forward` and :meth:`backward` for each micro-batch, and :meth:`step`. Hooks act around
    them: ``before_step`` and ``after_step`` around all five, ``after_backward`` before the last.

    A loss that is not finite stops all processes before the optimizer step. After a failure the
    hooks are closed, but nothing is evaluated (see :attr:`failed`).

    Args:
        model: maps a list of Detectron2's input dicts to a dict of scalar losses.
        optimizer: holds the parameters of ``model``.
        precision: see :class:`Precision`.
        accumulate: number of micro-batches, >= 1, into which the batch of this process is divided.
            Their gradients are averaged for a single optimizer step, so a larger number needs less
            memory.
        log_period: iterations, >= 1, after which the numbers of all of them are read from the
            device and recorded in ``storage``. This waits for the device; other steps do not,
            except with a loss scale.
        loss_normalization: see :class:`LossNormalization`; as published by default.

    Attributes:
        data_loader: endless iterable of such lists; set it before :meth:`train`. It is not a
            constructor argument because its seed depends on the iteration that a checkpoint
            restores.
        start_iter: iteration to start at: 0, or the iteration after a restored state.
        max_iter: number of iterations of the run; :meth:`stop_early` lowers it.
        failed: whether the last call of :meth:`train` ended with an exception.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        accumulate: int = 1,
        log_period: int = 20,
        loss_normalization: LossNormalization | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.data_loader: Iterable[Batch] = ()
        self.optimizer = optimizer
        self.precision = precision
        self.accumulate = accumulate
        self.log_period = log_period
        self.loss_normalization = loss_normalization or LossNormalization()
        self.failed = False
        self._batches: Iterator[Batch] | None = None
        self._micro_batches: Sequence[Batch] = ()
        self._random_states: dict[str, Tensor] = {}  # before the forward passes of this step
        self._finite = FiniteCheck()
        self._metrics = StepMetrics()

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations ``start_iter`` to ``max_iter - 1``, unless a hook stops early.

        Raises:
            FloatingPointError: a loss is infinite or not a number.
        """
        self.failed = False
        self.model.train()
        if start_iter < max_iter:
            logger.info("Starting training from iteration %d", start_iter)
        else:
            logger.info(
                "The run is already at iteration %d of %d, so it is only evaluated.",
                start_iter,
                max_iter,
            )
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except BaseException:
                self.failed = True
                raise
            finally:
                self._batches = None  # ends the data workers; evaluation needs their memory
                self.after_train()

    def stop_early(self) -> None:
        """Make the present iteration the last one; hooks of all processes call this together."""
        self.max_iter = self.iter + 1
        self._metrics.write(self.storage)  # as in every last iteration

    def run_step(self) -> None:
        """Take one optimizer step on one batch, unless its losses are not finite."""
        batch, data_time = self.next_batch()
        micro_batches = self._micro_batches = self.split(batch)
        self._random_states = random_states(self.precision.device_type)
        self.loss_normalization.prepare(self.model, micro_batches, self.forward)
        losses = self._compute_gradients(micro_batches)
        if not self._finite.passed():
            self.stop_non_finite(micro_batches, losses)
        self._metrics.add_step(self.iter, data_time, losses)
        self.after_backward()
        self.step()
        done = self.iter + 1
        if done % self.log_period == 0 or done == self.max_iter:
            self._metrics.write(self.storage)

    def next_batch(self) -> tuple[Batch, float]:
        """Return the next batch and the seconds spent waiting for it."""
        start = time.perf_counter()
        if self._batches is None:  # only now, because a finished run needs no workers
            self._batches = iter(self.data_loader)
        batch = next(self._batches)
        return batch, time.perf_counter() - start

    def split(self, batch: Batch) -> list[Batch]:
        """Divide the batch of this process into ``accumulate`` micro-batches of the same size.

        Raises:
            UsageError: the batch cannot be divided evenly.
        """
        size, rest = divmod(len(batch), self.accumulate)
        if rest:
            raise UsageError(
                f"the data loader returned {len(batch)} images, which cannot be divided evenly "
                f"into train.accumulate={self.accumulate} micro-batches; use batches of a "
                f"multiple of {self.accumulate} images, or another train.accumulate."
            )
        return [batch[index * size : (index + 1) * size] for index in range(self.accumulate)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a micro-batch.

        What the model draws for an image with a ``"sample_seed"`` follows from this seed.

        Raises:
            FloatingPointError: Detectron2's check of the proposals found a value that is not
                finite.
        """
        seeds = [inputs.get("sample_seed") for inputs in batch]
        with self.precision.autocast(), image_seeds(seeds):
            try:
                return self.model(batch)
            except FloatingPointError as error:
                replay = self._write_replay([], alone=True)
                raise FloatingPointError(
                    self._describe_non_finite(
                        str(error), [(comm.get_rank(), {}, _file_names(batch))], replay
                    )
                ) from error

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Add the gradients of a micro-batch, as its share of their mean, to the parameters'."""
        loss = sum(losses.values()) / self.accumulate
        self.precision.scaler.scale(loss).backward()

    def after_backward(self) -> None:
        """Call the hooks that act on gradients, which have no loss scale in them any more.

        Hooks of Detectron2 0.6 do not have this method.
        """
        hooks = [hook for hook in self._hooks if hasattr(hook, "after_backward")]
        if hooks:
            self.precision.scaler.unscale_(self.optimizer)
        for hook in hooks:
            hook.after_backward()

    def step(self) -> None:
        """Apply the gradients with the optimizer, then drop them."""
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """Return iteration, hooks, optimizer and loss scale; every process calls this."""
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["optimizer_description"] = describe_optimizer(self.optimizer, self.model)
        state["grad_scaler"] = self.precision.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`.

        Learning rate, weight decay and precision still come from the config, which may have changed
        in between: a run that diverged can be continued with a lower ``optimizer.lr``.

        Raises:
            UsageError: another program wrote the state, or it belongs to an optimizer with other
                parameters; nothing is changed.
        """
        if not isinstance(state_dict, Mapping) or not {"iteration", "optimizer"} <= set(state_dict):
            raise UsageError(
                "the checkpoint does not contain the iteration and the optimizer state at which "
                "training stopped: it holds only weights, or another program wrote it. Start a new "
                "run from its weights with train.init_checkpoint."
            )
        check_optimizer_state(
            self.optimizer,
            self.model,
            state_dict["optimizer"],
            state_dict.get("optimizer_description"),
        )
        super().load_state_dict(state_dict)
        self.start_iter = self.iter + 1  # the state was stored after an iteration
        options = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        ]
        load_optimizer_state(self.optimizer, state_dict["optimizer"])
        for group, option in zip(self.optimizer.param_groups, options, strict=True):
            # PyTorch's schedulers start from "initial_lr" when training continues.
            group.update(option, initial_lr=option.get("initial_lr", option["lr"]))
        scale = state_dict.get("grad_scaler")
        if scale and self.precision.scaler.is_enabled():
            self.precision.scaler.load_state_dict(scale)

    def record(self, **scalars: Tensor) -> None:
        """Record numbers of this iteration without waiting for the device.

        Hooks call this in ``after_backward``.

        Args:
            scalars: tensors of one element on the device. Their means over the processes reach
                ``storage`` together with the losses.
        """
        self._metrics.add_scalars(**scalars)

    def stop_non_finite(self, micro_batches: Sequence[Batch], losses: Sequence[LossValues]) -> None:
        """Stop the run before the optimizer step; every process calls this in the same iteration.

        Args:
            micro_batches: those of this process.
            losses: the losses of each. If all are finite, another process has one that is not.

        Raises:
            FloatingPointError: always; it names losses and images of all processes.
        """
        self._metrics.write(self.storage)  # the steps until now
        found, values = [], [part.read() for part in losses]
        for micro_batch, part in zip(micro_batches, values, strict=True):
            if not all(map(math.isfinite, part.values())):
                found.append((comm.get_rank(), part, _file_names(micro_batch)))
        gathered = comm.all_gather((found, self._write_replay(values, failed=bool(found))))
        found = [entry for entries, _ in gathered for entry in entries]
        replay = [file for _, files in gathered for file in files]
        raise FloatingPointError(
            self._describe_non_finite("A loss is infinite or not a number.", found, replay)
        )

    def _write_replay(self, losses: Sequence[Mapping[str, float]], **options: bool) -> list[str]:
        """Let hooks write what is needed to repeat this step; return their files."""
        writers = [hook for hook in self._hooks if isinstance(hook, ReplayWriter)]
        files = [
            hook.write(self._micro_batches, losses, self._random_states, **options)
            for hook in writers
        ]
        return [file for file in files if file]

    def _compute_gradients(self, micro_batches: Sequence[Batch]) -> list[LossValues]:
        """Add the gradients of all micro-batches, and begin to check that the losses are finite."""
        values = []
        for number, micro_batch in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            with gradient_exchange(self.model, enabled=last):
                with self.loss_normalization.micro_batch():
                    losses = self.forward(micro_batch)
                values.append(LossValues.of(losses))
                if last:  # the check then need not wait for the backward pass, queued after it
                    self._finite.start(torch.cat([part.values for part in values]))
                self.backward(losses)
        return values

    def _describe_non_finite(
        self,
        reason: str,
        found: Sequence[tuple[int, Mapping[str, float], Sequence[str]]],
        replay: Sequence[str] = (),
    ) -> str:
        """Return the message; ``found`` has process, losses and image files of micro-batches."""
        rates = sorted({group["lr"] for group in self.optimizer.param_groups})
        lines = [
            f"{reason} Training stopped at iteration {self.iter}, which changed no weights and "
            "wrote no checkpoint.",
            f"learning rate: {', '.join(f'{rate:.3g}' for rate in rates)}",
        ]
        for rank, losses, files in found:
            where = f" of process {rank}" if comm.get_world_size() > 1 else ""
            shown = ", ".join(f"{name}={value:.4g}" for name, value in losses.items())
            lines.append(f"losses{where}: {shown or 'not reached'}")
            lines.append(f"images of the batch: {', '.join(files)}")
        lines += [f"to find the cause: {_REPLAY} {file}" for file in replay]
        lines.append(
            "Lower optimizer.lr or warm up longer, use train.amp.dtype=bfloat16 instead of "
            "float16, and check the annotations of these images; --resume continues from the last "
            "checkpoint."
        )
        return "\n".join(lines)


def _file_names(batch: Batch) -> list[str]:
    return [str(inputs.get("file_name", "unnamed")) for inputs in batch]
