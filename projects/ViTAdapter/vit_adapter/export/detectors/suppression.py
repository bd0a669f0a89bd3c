"""Choice of boxes with results of a fixed size: the best ones, and NMS.

Eager detectors filter boxes by Boolean masks, so that the sizes of their tensors depend on the
image. Here every tensor keeps its size, and boxes that are left out are marked instead. Only the
output of the NMS operator has a size that is not known before; it is turned into marks at once.

NMS stays one operator, ``torchvision::nms``, which is ``NonMaxSuppression`` in ONNX. Written with
tensors it would need either a loop or as many steps as there are boxes, because whether a box is
kept depends on all better ones.

Shapes: B batch, N candidates, R results.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

__all__ = ["choose_rows", "suppress", "top_scores"]


def top_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best scores of each image, and where they are.

    Args:
        scores: (B, N), positive; 0 for candidates that are left out.
        count: R.

    Returns:
        Scores (B, R), best first, and their indices (B, R). Where candidates are missing, the score
        is 0 and the index that of any candidate.
    """
    # Padded, so that R does not depend on N, which may be dynamic and smaller.
    best, index = F.pad(scores, (0, count)).topk(count, dim=1)
    return best, index.clamp(max=scores.shape[1] - 1)


def choose_rows(values: Tensor, index: Tensor) -> Tensor:
    """Take rows (B, R, ...) of values (B, N, ...) at indices (B, R)."""
    # Not take_along_dim, which makes a dynamic B a constant.
    index = index.view(*index.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    num_groups: int,
    iou_threshold: float,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Remove boxes that overlap a better one of their image and group, and take the best others.

    Args:
        boxes: (B, N, 4), clipped to the image.
        scores: (B, N), positive; 0 for candidates that are left out.
        groups: (B, N), from 0 to ``num_groups`` - 1, such as classes.
        num_groups: number of groups.
        iou_threshold: IoU above which the worse box is removed.
        count: R, at most N.

    Returns:
        Indices (B, R) of boxes, best first, and whether each is a result (B, R). All results come
        before the rest.
    """
    valid = scores > 0
    boxes = torch.where(valid[..., None], boxes, boxes.new_tensor(_FAR))
    boxes = boxes + _offsets(boxes, groups, valid, num_groups)
    boxes = torch.cat((boxes.flatten(0, 1), boxes.new_tensor((_FAR, _FARTHER))))
    padded = F.pad(scores.flatten(), (0, 2))
    kept = nms(boxes, padded, iou_threshold)
    marks = torch.zeros_like(padded).scatter(0, kept, 1.0)[:-2].view_as(scores)
    best, index = (marks * scores).topk(count, dim=1)
    return index, best > 0


# Candidates that are left out become one and the same box outside of all images. The first of them
# suppresses the others, so that they cost almost no time.
_FAR = (-2.0, -2.0, -1.0, -1.0)
# Traced graphs assert that NMS keeps at least two boxes. With this one and the box before it does.
_FARTHER = (-4.0, -4.0, -3.0, -3.0)


def _offsets(boxes: Tensor, groups: Tensor, valid: Tensor, num_groups: int) -> Tensor:
    """Shifts (B, N, 4) that keep boxes of different images and groups apart.

    Images and groups are laid out as a grid with about as many columns as rows. In a single row,
    the coordinates would be so large that float32 rounds them noticeably.
    """
    columns = math.isqrt(num_groups - 1) + 1
    rows = -(-num_groups // columns)
    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None]
    cell = torch.stack((groups % columns, image * rows + groups // columns), dim=-1)
    return (cell * valid[..., None] * (boxes.max() + 1)).repeat(1, 1, 2)
