"""Over which images the losses of a training step are averaged."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vit_adapter.config.errors import UsageError
from vit_adapter.layers.loss_count import StepCounts

__all__ = ["LossNormalization"]

_MODES = ("published", "global")


class LossNormalization:
    """Whether losses are divided by the counts of a micro-batch, or by those of the whole step.

    Args:
        mode: "published": as the original does, per process and micro-batch; some heads average
            counts over the processes. "global": by the counts in all images of an optimizer step,
            so that gradients do not depend on how the images are spread.

    Raises:
        UsageError: the mode is unknown.
    """

    def __init__(self, mode: str = "published") -> None:
        if mode not in _MODES:
            raise UsageError(
                f"train.loss_normalization={mode!r} is unknown; expected {' or '.join(_MODES)}."
            )
        self.mode = mode
        self._counts: StepCounts | None = None

    @classmethod
    def from_config(cls, cfg: DictConfig) -> "LossNormalization":
        """Read ``cfg.train.loss_normalization``."""
        return cls(str(cfg.train.get("loss_normalization", "published")))

    def prepare(
        self,
        model: nn.Module,
        micro_batches: Sequence[object],
        forward: Callable[[Any], object],
    ) -> None:
        """Count over the micro-batches of a step; every process calls this before the first one.

        Globally counting several micro-batches costs a forward pass of each without gradients,
        because counts may depend on what the model predicts. It draws the same random numbers as
        the training pass and changes neither batch norm statistics nor metrics.

        Args:
            model: trained by the step.
            micro_batches: of this process.
            forward: computes the losses of one micro-batch.
        """
        if self.mode == "published":
            return
        self._counts = StepCounts(len(micro_batches))
        if len(micro_batches) > 1:
            with torch.no_grad(), _no_traces(model):
                for batch in micro_batches:
                    with self._counts.collect():
                        forward(batch)
            self._counts.share()

    def micro_batch(self) -> AbstractContextManager[None]:
        """Return the context for the forward pass of a micro-batch, after :meth:`prepare`."""
        return nullcontext() if self._counts is None else self._counts.apply()


@contextmanager
def _no_traces(model: nn.Module) -> Iterator[None]:
    """Afterwards restore random numbers and statistics of norms; metrics are dropped."""
    buffers = [
        buffer
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for buffer in module.buffers(recurse=False)
    ]
    before = [buffer.clone() for buffer in buffers]
    devices = {parameter.device for parameter in model.parameters()}
    accelerators = [device for device in devices if device.type != "cpu"]
    kind = accelerators[0].type if accelerators else "cuda"
    try:
        with torch.random.fork_rng(accelerators, device_type=kind), EventStorage():
            yield
    finally:
        for buffer, values in zip(buffers, before, strict=True):
            buffer.copy_(values)
