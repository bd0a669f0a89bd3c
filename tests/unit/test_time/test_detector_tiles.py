"""Tiles of detectors against plain inference, known objects, and a slow, obvious loop."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from vit_adapter.test_time import DetectorTiles, DetectorViews
from vit_adapter.test_time.joining import join

# x0, y0, x1, y1, class; the last two overlap
OBJECTS = [
    (3, 4, 11, 12, 0),  # in one tile
    (21, 5, 28, 13, 1),  # whole in two tiles
    (14, 30, 50, 38, 2),  # cut, in two tiles
    (44, 16, 58, 41, 0),
    (20, 20, 40, 28, 1),  # in four tiles
    (62, 2, 70, 60, 0),  # in three tiles
    (60, 44, 69, 58, 2),
]
HEIGHT, WIDTH = 61, 73
TILES = {"size": [32, 32], "overlap": [12, 12]}


class Finder(nn.Module):
    """Finds the parts of known objects: channel n of the image shows object n.

    The score is higher the more of the object is seen; it is lower in darker images.
    """

    def __init__(self, masks: bool = True) -> None:
        super().__init__()
        self.masks = masks

    def forward(self, batch: list[dict]) -> list[dict]:
        return [{"instances": self.find(**inputs)} for inputs in batch]

    def find(self, image: Tensor, height: int, width: int) -> Instances:
        boxes, scores, classes, masks = [], [], [], []
        for channel, (x0, y0, x1, y1, label) in zip(image, OBJECTS, strict=True):
            if channel.any():
                ys, xs = channel.nonzero().T
                boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                scores.append(len(xs) / ((x1 - x0) * (y1 - y0)) * 0.5 + 0.05 * len(scores))
                classes.append(label)
                masks.append(channel > 0)
        order = torch.tensor(scores).argsort(descending=True)
        found = Instances((height, width))
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order])
        found.scores = torch.tensor(scores)[order]
        found.pred_classes = torch.tensor(classes, dtype=torch.int64)[order]
        if self.masks:
            found.pred_masks = torch.stack([torch.zeros(height, width) > 0, *masks])[1:][order]
        return found


def object_image() -> Tensor:
    """An image with a channel for each object."""
    image = torch.zeros(len(OBJECTS), HEIGHT, WIDTH, dtype=torch.uint8)
    for channel, (x0, y0, x1, y1, _) in zip(image, OBJECTS, strict=True):
        channel[y0:y1, x0:x1] = 255
    return image


def by_box(found: Instances) -> dict[tuple, tuple]:
    rows = zip(found.pred_boxes.tensor.tolist(), found.pred_classes.tolist(), strict=True)
    masks = found.pred_masks.flatten(1).tolist() if found.has("pred_masks") else [None] * len(found)
    return {
        (*box, label): tuple(mask) if mask else None
        for (box, label), mask in zip(rows, masks, strict=True)
    }


def run(model: nn.Module, image: Tensor, **size: int) -> Instances:
    with torch.no_grad():
        return model([{"image": image, **size}])[0]["instances"]


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("size", [[32, 32], [40, 30], [61, 32], [32, 200]])
def test_objects_that_tiles_cut_are_joined(masks: bool, size: list[int]) -> None:
    model, image = Finder(masks).eval(), object_image()
    whole = run(model, image, height=HEIGHT, width=WIDTH)
    found = run(DetectorTiles(model, size=size, overlap=[12, 12]), image)
    assert found.image_size == (HEIGHT, WIDTH) and len(found) == len(OBJECTS)
    assert by_box(found) == by_box(whole)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@pytest.mark.parametrize("labels", [(0, 0), (0, 1)])
def test_objects_that_touch_or_differ_in_class_stay_apart(labels: tuple[int, int]) -> None:
    """The left object ends where the right one begins, in the area that both tiles see."""
    tiles = [(0, 0, 32, 32), (20, 0, 52, 32)]
    seen = [[(10, 5, 26, 15), (26, 5, 32, 15)], [(0, 5, 6, 15), (6, 5, 20, 15)]]
    if labels[0] != labels[1]:  # both see one object, but as different classes
        seen = [[(22, 5, 30, 15)], [(2, 5, 10, 15)]]
    found = []
    for number, boxes in enumerate(seen):
        one = Instances((32, 32), pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)))
        one.scores = torch.linspace(0.9, 0.8, len(boxes))
        one.pred_classes = torch.full((len(boxes),), labels[number])
        found.append(one)
    joined = join(found, tiles, size=(32, 52), min_iou=0.5).pred_boxes.tensor.tolist()
    if labels[0] != labels[1]:
        assert joined == [[22, 5, 30, 15]] * 2
    else:
        assert sorted(joined) == [[10, 5, 26, 15], [26, 5, 40, 15]]


def test_nothing_is_joined_without_overlap() -> None:
    found = run(DetectorTiles(Finder().eval(), size=[32, 32], overlap=[0, 0]), object_image())
    assert len(found) > len(OBJECTS)


@pytest.mark.parametrize("name", ["grid", "mask_rcnn", "retinanet"])
def test_one_tile_equals_plain_inference_exactly(
    name: str, make_detector: Callable[[str], nn.Module]
) -> None:
    model = make_detector(name)
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    resize = T.ResizeShortestEdge([40], 100, "choice")
    array = image.permute(1, 2, 0).numpy()
    small = torch.tensor(resize.get_transform(array).apply_image(array)).permute(2, 0, 1)
    expected = run(model, small, height=50, width=70)
    for tiles in (
        DetectorTiles(model, size=[50, 70], overlap=[9, 9], augmentations=[resize]),
        DetectorTiles(
            DetectorViews(model, scales=[40], max_size=100), size=[99, 99], overlap=[0, 0]
        ),
    ):
        found = run(tiles, image, height=50, width=70)
        assert len(found) == len(expected) > 0
        assert found.get_fields().keys() == expected.get_fields().keys()
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        for field in found.get_fields().keys() - {"pred_boxes"}:
            assert torch.equal(found.get(field), expected.get(field))


def random_instances(tile: tuple, seed: int) -> Instances:
    generator = torch.Generator().manual_seed(seed)
    width, height = tile[2] - tile[0], tile[3] - tile[1]
    limits = torch.tensor([width, height] * 2)
    ends = torch.rand(25, 2, 2, generator=generator).sort(dim=1).values.flatten(1)
    found = Instances((height, width), pred_boxes=Boxes(ends * limits))
    found.scores = torch.rand(25, generator=generator).sort(descending=True).values
    found.pred_classes = torch.randint(0, 2, (25,), generator=generator)
    found.pred_masks = torch.rand(25, height, width, generator=generator) > 0.5
    return found


def slow_shared_iou(a: list, b: list, tile_a: tuple, tile_b: tuple) -> float:
    x0, y0 = max(tile_a[0], tile_b[0]), max(tile_a[1], tile_b[1])
    x1, y1 = min(tile_a[2], tile_b[2]), min(tile_a[3], tile_b[3])
    if x0 >= x1 or y0 >= y1:
        return 0.0
    a, b = ([max(o[0], x0), max(o[1], y0), min(o[2], x1), min(o[3], y1)] for o in (a, b))
    if any(o[2] <= o[0] or o[3] <= o[1] for o in (a, b)):
        return 0.0
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(o[2] - o[0]) * (o[3] - o[1]) for o in (a, b)]
    return common / (sum(areas) - common)


def slow_join(found: list[Instances], tiles: list[tuple], least: float) -> list[tuple]:
    """Return (box, score, class, mask as rows) of each object, best first."""
    singles = []
    for number, (one, tile) in enumerate(zip(found, tiles, strict=True)):
        for place in range(len(one)):
            x0, y0, x1, y1 = one.pred_boxes.tensor[place].tolist()
            box = [x0 + tile[0], y0 + tile[1], x1 + tile[0], y1 + tile[1]]
            singles.append(
                (number, box, float(one.scores[place]), int(one.pred_classes[place]), place)
            )
    pairs = [
        (slow_shared_iou(a[1], b[1], tiles[a[0]], tiles[b[0]]), a, b)
        for a in singles
        for b in singles
        if a[0] < b[0] and a[3] == b[3]
    ]
    groups = [[single] for single in singles]
    for iou, a, b in sorted(pairs, key=lambda pair: -pair[0]):
        if iou < least:
            break
        one = next(group for group in groups if a in group)
        other = next(group for group in groups if b in group)
        if one is not other and len({m[0] for m in one + other}) == len(one + other):
            groups.remove(other)
            one.extend(other)
    return sorted((slow_object(group, found, tiles) for group in groups), key=lambda o: -o[1])


def slow_object(group: list, found: list[Instances], tiles: list[tuple]) -> tuple:
    group = sorted(group, key=lambda single: -single[2])
    box, tile = list(group[0][1]), tiles[group[0][0]]
    for _, other, *_ in group[1:]:
        for side in (0, 1):
            if other[side] < tile[side]:
                box[side] = min(box[side], other[side])
        for side in (2, 3):
            if other[side] > tile[side]:
                box[side] = max(box[side], other[side])
    pixels = {}
    for number, _, _, _, place in group:
        x0, y0, x1, y1 = tiles[number]
        for y in range(y0, y1):
            for x in range(x0, x1):
                pixels.setdefault((y, x), bool(found[number].pred_masks[place, y - y0, x - x0]))
    mask = [[pixels.get((y, x), False) for x in range(20)] for y in range(18)]
    return box, group[0][2], group[0][3], mask


@pytest.mark.parametrize("least", [0.2, 0.5])
def test_joining_equals_the_slow_loop(least: float) -> None:
    tiles = [(x, y, x + 12, y + 12) for y in (0, 6) for x in (0, 5, 8)]
    found = [random_instances(tile, seed) for seed, tile in enumerate(tiles)]
    joined = join(found, tiles, size=(18, 20), min_iou=least)
    boxes, scores, classes, masks = zip(*slow_join(found, tiles, least), strict=True)
    assert len(joined) < 25 * len(tiles)
    torch.testing.assert_close(joined.pred_boxes.tensor, torch.tensor(boxes))
    assert joined.scores.tolist() == list(scores)
    assert joined.pred_classes.tolist() == list(classes)
    assert joined.pred_masks.tolist() == list(masks)


def test_no_objects() -> None:
    image = torch.zeros(len(OBJECTS), HEIGHT, WIDTH, dtype=torch.uint8)
    found = run(DetectorTiles(Finder().eval(), **TILES), image)
    assert len(found) == 0 and found.pred_masks.shape == (0, HEIGHT, WIDTH)
    assert found.pred_boxes.tensor.shape == (0, 4) and found.pred_classes.dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [32]}, r"\(height, width\) each.*got \[32\]"),
        ({"size": [32, 1]}, r"at least 2, got \[32, 1\]"),
        ({"overlap": [32, 3]}, r"less than the side of a tile, got .*\[32, 3\]"),
        ({"overlap": [-1, 3]}, "overlap must be at least 0"),
        ({"min_iou": 0}, r"min_iou must be in \(0, 1\], got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectorTiles(Finder(), **{**TILES, **options})


def test_resized_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"73 x 61 pixels .* has 80 x 61\. Tiles are cut"):
        run(DetectorTiles(Finder().eval(), **TILES), object_image(), width=80)


class Semantic(nn.Module):
    def forward(self, batch: list[dict]) -> list[dict]:
        return [{"sem_seg": batch[0]["image"]}]


def test_other_outputs_are_refused() -> None:
    with pytest.raises(TypeError, match=r"predicts \['sem_seg'\], expected instances"):
        run(DetectorTiles(Semantic().eval(), **TILES), object_image())


def test_training_mode_is_refused() -> None:
    with pytest.raises(RuntimeError, match="DetectorTiles is for testing"):
        run(DetectorTiles(Finder().train(), **TILES), object_image())
