"""Choice of the best boxes, against torchvision's functions for one image."""

import torch
from torchvision.ops import batched_nms

from vit_adapter.export.detectors.suppression import suppress, top_scores


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
