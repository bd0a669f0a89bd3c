"""Joining the objects that several tiles of an image see.

Shapes: N instances of a tile, h/w sides of a tile, H/W sides of the image.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["Tile", "join"]

Tile = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the image
_Member = tuple[int, int]  # tile, and place among its instances


def join(
    found: Sequence[Instances], tiles: Sequence[Tile], *, size: tuple[int, int], min_iou: float
) -> Instances:
    """Join the instances of overlapping tiles.

    Two instances of a class are one object if their boxes have an IoU of at least ``min_iou`` in
    the area that both tiles see. An object has at most one instance in each tile, and pairs with
    the highest IoU are joined first. Inside its own tile, the instance with the highest score
    decides; the others add what lies outside. The score of an object is the highest one.

    Args:
        found: for each tile ``pred_boxes``, ``scores``, ``pred_classes`` and perhaps ``pred_masks``
            (N, h, w), all in the frame of the tile.
        tiles: where the tiles lie in the image; at least one.
        size: (H, W).
        min_iou: in (0, 1].

    Returns:
        Instances in the frame of the image, best first.
    """
    boxes = [
        one.pred_boxes.tensor + one.pred_boxes.tensor.new_tensor([*tile[:2], *tile[:2]])
        for one, tile in zip(found, tiles, strict=True)
    ]
    scores = [one.scores.tolist() for one in found]
    groups = _group(found, _pairs(found, boxes, tiles, min_iou))
    for group in groups:
        group.sort(key=lambda member: -scores[member[0]][member[1]])  # stable
    groups.sort(key=lambda group: -scores[group[0][0]][group[0][1]])

    order = [group[0] for group in groups]
    joined = Instances(size)
    joined.pred_boxes = Boxes(_stack([_join_boxes(group, boxes, tiles) for group in groups], boxes))
    for name in ("scores", "pred_classes"):
        values = [one.get(name) for one in found]
        joined.set(name, _stack([values[tile][place] for tile, place in order], values))
    if found[0].has("pred_masks"):
        joined.pred_masks = _join_masks(groups, found, tiles, size)
    return joined


def _stack(chosen: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Stack values; ``values`` has their type if there are none."""
    return torch.stack(list(chosen)) if chosen else values[0][:0]


def _pairs(
    found: Sequence[Instances], boxes: Sequence[Tensor], tiles: Sequence[Tile], min_iou: float
) -> Iterator[tuple[_Member, _Member]]:
    """Yield the instances of two tiles that may be one object, those that agree best first."""
    agreeing = []
    for one, other in combinations(range(len(tiles)), 2):
        x0, y0 = (max(tiles[one][side], tiles[other][side]) for side in (0, 1))
        x1, y1 = (min(tiles[one][side], tiles[other][side]) for side in (2, 3))
        if x0 >= x1 or y0 >= y1:
            continue
        low, high = boxes[one].new_tensor([x0, y0] * 2), boxes[one].new_tensor([x1, y1] * 2)
        clipped = [boxes[tile].clamp(low, high) for tile in (one, other)]
        iou = box_iou(*clipped).nan_to_num(0.0)  # NaN: neither box reaches into the shared area
        same = found[one].pred_classes[:, None] == found[other].pred_classes
        for row, column in (same & (iou >= min_iou)).nonzero().tolist():
            agreeing.append((-float(iou[row, column]), (one, row), (other, column)))
    for _, first, second in sorted(agreeing):
        yield first, second


def _group(
    found: Sequence[Instances], pairs: Iterator[tuple[_Member, _Member]]
) -> list[list[_Member]]:
    """Unite pairs to groups with at most one instance of a tile."""
    members = [(tile, place) for tile, one in enumerate(found) for place in range(len(one))]
    group_of = {member: [member] for member in members}
    for first, second in pairs:
        one, other = group_of[first], group_of[second]
        if one is other or {tile for tile, _ in one} & {tile for tile, _ in other}:
            continue
        one += other
        group_of.update(dict.fromkeys(other, one))
    return list({id(group): group for group in group_of.values()}.values())


def _join_boxes(group: Sequence[_Member], boxes: Sequence[Tensor], tiles: Sequence[Tile]) -> Tensor:
    """Return the best box, its sides moved to where others go beyond the tile of the best one."""
    (best, place), *others = group
    box = boxes[best][place].clone()
    border = box.new_tensor(tiles[best])
    for tile, index in others:
        other = boxes[tile][index]
        box[:2] = torch.where(other[:2] < border[:2], torch.minimum(box[:2], other[:2]), box[:2])
        box[2:] = torch.where(other[2:] > border[2:], torch.maximum(box[2:], other[2:]), box[2:])
    return box


def _join_masks(
    groups: Sequence[Sequence[_Member]],
    found: Sequence[Instances],
    tiles: Sequence[Tile],
    size: tuple[int, int],
) -> Tensor:
    """Return the masks (N, H, W): each pixel from the best instance whose tile contains it."""
    joined = found[0].pred_masks.new_zeros(len(groups), *size)
    for canvas, group in zip(joined, groups, strict=True):
        for tile, place in reversed(group):
            x0, y0, x1, y1 = tiles[tile]
            canvas[y0:y1, x0:x1] = found[tile].pred_masks[place]
    return joined
