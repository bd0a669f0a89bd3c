"""Comparing an exported file with the model it was made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from vit_adapter.config.errors import UsageError
from vit_adapter.export.formats import Run
from vit_adapter.export.matching import align_detections
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
    names = core.output_names
    differences = dict.fromkeys(names, 0.0)
    compared = []
    empty = set(names)
    for images in shapes.for_checks():
        compared.append(tuple(images.shape))
        with exporting():
            expected = dict(zip(names, core(images), strict=True))
        try:
            outputs = dict(zip(names, run(images), strict=True))
        except Exception as error:  # every runtime has its own
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"the file does not run on images {compared[-1]}: {reason}") from error
        if "count" in names:
            outputs = align_detections(expected, outputs, tolerance=TOLERANCE)
        empty -= {name for name in names if _has_values(name, expected)}
        for name, value in expected.items():
            difference = _difference(value, outputs[name])
            differences[name] = max(differences[name], difference)
            if not difference <= TOLERANCE:  # also if it is not a number
                raise UsageError(
                    f"the file computes other numbers than the model on images {compared[-1]}: "
                    f"{name} differs by {difference:.1e} of its largest value, expected at most "
                    f"{TOLERANCE:.0e}"
                )
    return Check(compared, differences, tuple(sorted(empty)))


def _has_values(name: str, outputs: Mapping[str, Tensor]) -> bool:
    """Whether an output says something; the classes of a detector do even if all are 0."""
    return bool(outputs["count" if name == "classes" else name].any())


def _difference(expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    scale = expected.abs().max().item() or 1.0
    return (expected.double() - actual.double()).abs().max().item() / scale
