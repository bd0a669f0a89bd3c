"""Bringing detections into the same order, to compare them.

Shapes: B batch, N rows of an image.
"""

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

__all__ = ["align_detections"]

_NOT_ALIKE = 1e6


def align_detections(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, tolerance: float
) -> dict[str, Tensor]:
    """Move each detection to the row of the expected detection that it is most alike.

    Two runtimes may sort detections with almost equal scores differently. If all N rows of an image
    are detections, the last one may even be another: the list ends between almost equal scores.
    One such row takes the values of its counterpart.

    Args:
        expected: the outputs of a detector by name, see
            :class:`vit_adapter.export.detectors.ExportableDetector`.
        found: outputs to compare with these.
        tolerance: scores are almost equal if they differ by at most this part of the best score.

    Returns:
        The outputs found, with the rows in the order of those expected; unchanged if their shapes
        differ.
    """
    if any(found[name].shape != values.shape for name, values in expected.items()):
        return dict(found)
    aligned = {name: values.clone() for name, values in found.items()}
    for image, count in enumerate(expected["count"].tolist()):
        before = {name: values[image] for name, values in expected.items()}
        after = {name: values[image] for name, values in found.items()}
        costs = _differences(before, after)
        rows, counterparts = map(torch.from_numpy, linear_sum_assignment(costs.numpy()))
        of_rows = [name for name in aligned if name != "count"]
        for name in of_rows:
            aligned[name][image] = after[name][counterparts]
        is_full = count == len(rows) == int(after["count"])
        row = int(costs[rows, counterparts].argmax())
        last_scores = torch.stack([before["scores"][row], after["scores"][counterparts[row]]])
        distances = (last_scores - before["scores"].min()).abs()
        if is_full and bool((distances <= tolerance * before["scores"].max()).all()):
            for name in of_rows:
                aligned[name][image, row] = before[name][row]
    return aligned


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Tensor:
    """How much each row of one image (N) differs from each row of another (N): (N, N)."""
    parts = [(expected["classes"][:, None] != found["classes"]).double()]
    for name in ("boxes", "scores"):
        sides = (expected[name], found[name])
        one, other = (side.double().reshape(len(side), -1) for side in sides)
        scale = one.abs().max().clamp(min=1e-9)
        parts.append((one[:, None] - other).abs().amax(-1) / scale)
    return torch.stack(parts).amax(0).nan_to_num(nan=_NOT_ALIKE, posinf=_NOT_ALIKE)
