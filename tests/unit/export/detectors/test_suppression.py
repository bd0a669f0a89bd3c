"""Choice of the best boxes, against torchvision's functions for one image."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from vit_adapter.export.detectors.suppression import suppress, top_scores
from vit_adapter.export.formats import FORMATS
from vit_adapter.ops.exporting import exporting


def test_nms_of_a_batch() -> None:
    torch.manual_seed(0)
    corners = 1000 * torch.rand(3, 200, 2)
    boxes = torch.cat((corners, corners + 40 + 200 * torch.rand(3, 200, 2)), dim=2)
    scores, groups = 0.1 + torch.rand(3, 200), torch.randint(7, (3, 200))
    scores[:, ::3] = 0
    scores[2, 5:] = 0
    index, found = suppress(boxes, scores, groups, num_groups=7, iou_threshold=0.3, count=60)
    for image in range(3):
        (left,) = torch.where(scores[image] > 0)
        one = (boxes[image, left], scores[image, left], groups[image, left])
        expected = left[batched_nms(*one, 0.3)][:60]
        assert index[image, found[image]].tolist() == expected.tolist()
        assert found[image].tolist() == [i < len(expected) for i in range(60)]
    assert found.sum(1).tolist()[:2] != [len(scores[0])] * 2 and found[2].sum() <= 4


class Suppress(nn.Module):
    """Boxes in a row, each in the group of its position, from their scores (B, N)."""

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        corners = 20.0 * torch.arange(scores.shape[1])
        boxes = torch.stack((corners, corners, corners + 30, corners + 30), dim=1)
        boxes, groups = boxes.expand(len(scores), -1, -1), torch.zeros_like(scores).long()
        return suppress(boxes, scores, groups, num_groups=1, iou_threshold=0.05, count=4)


@pytest.mark.parametrize("file_format", ["pt2", "onnx"])
def test_files_with_no_or_one_box_left(file_format: str, tmp_path: Path) -> None:
    for package in FORMATS[file_format].packages:
        pytest.importorskip(package)
    kind, path = FORMATS[file_format], tmp_path / f"model{FORMATS[file_format].suffix}"
    model, scores = Suppress(), torch.rand(1, 6) + 0.1
    with torch.no_grad(), exporting():
        program = torch.export.export(model, (scores,), strict=False)
        kind.write(program, ["index", "found"], path)
    run = kind.load(path)
    for left in ([], [3], [3, 4], [0, 2, 5], range(6)):
        chosen = torch.zeros(1, 6)
        chosen[0, list(left)] = scores[0, list(left)]
        (index, found), (of_file, found_of_file) = model(chosen), run(chosen)
        assert torch.equal(found, found_of_file) and found.any() == bool(left)
        assert torch.equal(index[found], of_file[found])


def test_boxes_of_different_groups_do_not_suppress_each_other() -> None:
    """Even if there are many groups and the boxes fill a large image."""
    boxes = torch.tensor([0.0, 0, 4000, 3000]).expand(2, 1200, 4)
    scores = 0.1 + torch.rand(2, 1200)
    groups = torch.arange(1200).expand(2, -1)
    _, found = suppress(boxes, scores, groups, num_groups=1200, iou_threshold=0.01, count=1200)
    assert found.all()


def test_top_scores_are_padded() -> None:
    scores = torch.tensor([[0.1, 0.0, 0.7], [0.2, 0.3, 0.1]])
    best, index = top_scores(scores, 5)
    torch.testing.assert_close(best, torch.tensor([[0.7, 0.1, 0, 0, 0], [0.3, 0.2, 0.1, 0, 0]]))
    assert index[0, :2].tolist() == [2, 0] and index[1, :3].tolist() == [1, 0, 2]
    assert 0 <= index.min() and index.max() < 3
