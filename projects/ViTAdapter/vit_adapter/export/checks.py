"""Comparing an exported file with the model it was made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from vit_adapter.config.errors import UsageError
from vit_adapter.export.formats import Run
from vit_adapter.export.models import ExportableModel
from vit_adapter.export.shapes import ImageShapes
from vit_adapter.ops.exporting import exporting

__all__ = ["TOLERANCE", "Check", "check_run"]

TOLERANCE = 1e-4
"""The largest difference of an output, relative to the largest absolute value in it."""


@dataclass(frozen=True)
class Check:
    """What was compared.

    Attributes:
        shapes: the shapes of the images.
        differences: output -> its largest difference, relative to its largest absolute value.
        empty: the outputs that were 0 everywhere, as those of a detector that has found nothing.
    """

    shapes: list[tuple[int, ...]]
    differences: Mapping[str, float]
    empty: tuple[str, ...] = ()

    @property
    def largest(self) -> float:
        """The largest difference of all outputs."""
        return max(self.differences.values())

    def described(self) -> dict[str, object]:
        """The same for the description of the file."""
        return {**asdict(self), "largest": self.largest, "tolerance": TOLERANCE}


@torch.no_grad()
def check_run(core: ExportableModel, run: Run, shapes: ImageShapes) -> Check:
    """Run an exported model on random images and compare each output with the model's.

    Raises:
        UsageError: a run fails, or a difference is above the tolerance.
    """
    differences = dict.fromkeys(core.output_names, 0.0)
    compared = []
    empty = set(core.output_names)
    for images in shapes.for_checks():
        compared.append(tuple(images.shape))
        with exporting():
            expected = core(images)
        try:
            outputs = run(images)
        except Exception as error:  # every runtime has its own
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"the file does not run on images {compared[-1]}: {reason}") from error
        for name, value, output in zip(core.output_names, expected, outputs, strict=True):
            if value.any():
                empty.discard(name)
            difference = _difference(value, output)
            differences[name] = max(differences[name], difference)
            if not difference <= TOLERANCE:  # also if it is not a number
                raise UsageError(
                    f"the file computes other numbers than the model on images {compared[-1]}: "
                    f"{name} differs by {difference:.1e} of its largest value, expected at most "
                    f"{TOLERANCE:.0e}"
                )
    return Check(compared, differences, tuple(sorted(empty)))


def _difference(expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    scale = expected.abs().max().item() or 1.0
    return (expected.double() - actual.double()).abs().max().item() / scale
