"""Detections of two runtimes in the same order."""

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.config.errors import UsageError
from vit_adapter.export.checks import TOLERANCE, check_run
from vit_adapter.export.matching import align_detections
from vit_adapter.export.shapes import ImageShapes

SHAPES = ImageShapes(1, 64, 96)


def make_detections(count: int = 3) -> dict[str, Tensor]:
    """One image with 4 rows; the scores of the first two are almost equal."""
    rows = torch.arange(4.0)
    boxes = torch.stack([10 * rows, 5 * rows, 10 * rows + 20, 5 * rows + 30], dim=1)
    scores = torch.tensor([0.9, 0.9 - 1e-6, 0.5, 0.2])
    masks = torch.linspace(0, 1, 16).reshape(4, 2, 2)
    classes = torch.tensor([0, 1, 0, 1])
    values = {"boxes": boxes, "scores": scores, "classes": classes, "masks": masks}
    for rows in values.values():
        rows[count:] = 0
    batched = {name: rows[None] for name, rows in values.items()}
    return {**batched, "count": torch.tensor([count])}


class Detector(nn.Module):
    """The same detections for all images."""

    def __init__(self, outputs: dict[str, Tensor]) -> None:
        super().__init__()
        self.outputs, self.output_names = outputs, tuple(outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.outputs.values())


def in_order(outputs: dict[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    """The same detections in other rows."""
    return {
        name: values if name == "count" else values[:, order] for name, values in outputs.items()
    }


@pytest.mark.parametrize("count", [3, 4])
def test_almost_equal_detections_may_change_places(count: int) -> None:
    expected = make_detections(count)
    found = in_order(expected, [1, 0, 2, 3])
    check = check_run(Detector(expected), Detector(found), SHAPES)
    assert check.differences == dict.fromkeys(expected, 0.0)
    assert check.empty == ()


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "change"), [("boxes", 0.1), ("scores", 1e-3), ("classes", 1), ("masks", 1e-3)]
)
def test_a_wrong_detection_is_noticed(count: int, row: int, name: str, change: float) -> None:
    expected = make_detections(count)
    found = in_order(expected, [1, 0, 2, 3])
    found[name][0, row] += change
    with pytest.raises(UsageError, match="computes other numbers than the model"):
        check_run(Detector(expected), Detector(found), SHAPES)


@pytest.mark.parametrize("name", ["boxes", "scores", "masks", "count"])
def test_values_after_the_last_detection_are_noticed(name: str) -> None:
    expected, found = make_detections(), make_detections()
    found[name].view(-1)[-1] += 1
    with pytest.raises(UsageError, match=f"{name} differs by"):
        check_run(Detector(expected), Detector(found), SHAPES)


def test_numbers_that_are_none_are_noticed() -> None:
    expected, found = make_detections(), make_detections()
    found["boxes"][0, 1] = float("nan")
    with pytest.raises(UsageError, match="boxes differs by nan"):
        check_run(Detector(expected), Detector(found), SHAPES)


@pytest.mark.parametrize(("change", "is_accepted"), [(1e-6, True), (1e-3, False)])
def test_a_full_list_may_end_with_another_detection(change: float, is_accepted: bool) -> None:
    expected = make_detections(count=4)
    found = {name: values.clone() for name, values in expected.items()}
    found["boxes"][0, 3] += 7
    found["scores"][0, 3] += change
    aligned = align_detections(expected, found, tolerance=TOLERANCE)
    assert torch.equal(aligned["boxes"], expected["boxes"]) == is_accepted
    found["boxes"][0, 2] += 7  # a second one is too many
    aligned = align_detections(expected, found, tolerance=TOLERANCE)
    assert not torch.equal(aligned["boxes"], expected["boxes"])


def test_outputs_of_other_shapes_stay() -> None:
    expected = make_detections()
    found = {name: values[..., :3] for name, values in expected.items()}
    assert align_detections(expected, found, tolerance=TOLERANCE) == found
