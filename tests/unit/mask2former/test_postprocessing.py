"""Segmentations on small grids, worked out by hand."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vit_adapter.mask2former.panoptic import panoptic_segmentation
from vit_adapter.mask2former.postprocessing import (
    RULES,
    boxes_around,
    instance_segmentation,
    semantic_scores,
    semantic_scores_of_pixels,
)
from vit_adapter.mask2former.resizing import MaskResizer

THINGS = (0, 1)
NUM_CLASSES = 4  # 0 and 1 are things, 2 and 3 are stuff


def unchanged(mask_logits: Tensor, at_once: int = 1) -> MaskResizer:
    """For an output of the size of the masks."""
    height, width = mask_logits.shape[-2:]
    return MaskResizer(*[(height, width)] * 3, max_pixels=at_once * height * width)


def classes(*probabilities: dict[int, float]) -> Tensor:
    """Class logits (Q, 5) of queries whose other class probabilities are nearly zero."""
    logits = torch.full((len(probabilities), NUM_CLASSES + 1), -30.0)
    for query, of_query in enumerate(probabilities):
        of_query = dict(of_query)
        of_query.setdefault(NUM_CLASSES, 1 - sum(of_query.values()))
        for label, probability in of_query.items():
            logits[query, label] = torch.tensor(probability + 1e-12).log()
    return logits


def masks(*drawings: str) -> Tensor:
    """Mask logits (Q, h, w) of drawings: # surely inside, + probably, - probably not, . not."""
    logits = {"#": 20.0, "+": 1.0, "-": -1.0, ".": -20.0}
    return torch.tensor([[[logits[c] for c in row] for row in d.split()] for d in drawings])


def test_semantic_scores_equal_the_sum_over_queries() -> None:
    class_logits, mask_logits = torch.randn(2, 3, 5), torch.randn(2, 3, 4, 6)
    scores = semantic_scores(class_logits, mask_logits)
    expected = torch.zeros(2, 4, 4, 6)
    for query in range(3):
        for label in range(4):
            probability = class_logits[:, query].softmax(-1)[:, label, None, None]
            expected[:, label] += probability * mask_logits[:, query].sigmoid()
    torch.testing.assert_close(scores, expected)
    assert semantic_scores(class_logits.bfloat16(), mask_logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("at_once", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scores_of_pixels_equal_the_sum_over_resized_masks(
    at_once: int, dtype: torch.dtype
) -> None:
    class_logits = torch.randn(7, 5).to(dtype)
    mask_logits = 9 * torch.randn(7, 4, 6).to(dtype)
    before = mask_logits.clone()
    resize = MaskResizer((16, 24), (13, 20), (13, 20), max_pixels=at_once * 16 * 24)
    scores = semantic_scores_of_pixels(class_logits, mask_logits, resize=resize)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = torch.zeros(4, 13, 20, dtype=wide)
    for query in range(7):
        logits = mask_logits[None, None, query].to(wide)
        mask = F.interpolate(logits, (16, 24), mode="bilinear")[0, 0, :13, :20].sigmoid()
        for label in range(4):
            expected[label] += class_logits[query].to(wide).softmax(-1)[label] * mask
    torch.testing.assert_close(scores, expected)
    assert torch.equal(mask_logits, before)


def test_scores_of_pixels_need_few_masks_at_once() -> None:
    """At the size of the output: the scores, and the masks of one part with their product."""
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                made.append(result.numel())
            return result

    side, queries, labels = 64, 200, 3
    resize = MaskResizer(*[(side, side)] * 3, max_pixels=2 * side**2)
    with Watch():
        semantic_scores_of_pixels(
            torch.randn(queries, labels + 1), torch.randn(queries, 4, 4), resize=resize
        )
    assert max(made) == labels * side**2


def test_scores_of_pixels_keep_logits_of_the_outputs_size() -> None:
    """Nothing is resized then, so the masks must not be changed in place."""
    mask_logits = torch.randn(3, 4, 6)
    before = mask_logits.clone()
    resize = unchanged(mask_logits, at_once=3)
    scores = semantic_scores_of_pixels(torch.randn(3, 5), mask_logits, resize=resize)
    assert scores.shape == (4, 4, 6) and torch.equal(mask_logits, before)


def segment(
    class_logits: Tensor, mask_logits: Tensor, *, at_once: int = 1, rules: str = "original"
) -> tuple[list, list]:
    panoptic, segments = panoptic_segmentation(
        class_logits,
        mask_logits,
        resize=unchanged(mask_logits, at_once),
        thing_classes=THINGS,
        object_mask_threshold=0.8,
        overlap_threshold=0.8,
        rules=RULES[rules],
    )
    assert panoptic.dtype == torch.int32
    return panoptic.tolist(), segments


def test_panoptic_keeps_things_apart_and_merges_stuff() -> None:
    class_logits = classes({0: 0.95}, {2: 0.95}, {0: 0.9}, {2: 0.9}, {3: 0.9})
    mask_logits = masks(
        "##.... ##.... ......",  # 1: a thing
        "..#... ..#... ......",  # 2: stuff
        "...#.. ...#.. ......",  # 3: another thing, of the same class as 1
        "....#. ....#. ......",  # the same stuff as 2
        "...... ...... ###---",  # 4: other stuff; the right half belongs to no segment
    )
    panoptic, segments = segment(class_logits, mask_logits)
    assert panoptic == [[1, 1, 2, 3, 2, 0], [1, 1, 2, 3, 2, 0], [4, 4, 4, 0, 0, 0]]
    scores = [segment.pop("score") for segment in segments]
    assert scores == pytest.approx([0.95, 0.95, 0.9, 0.9])  # of merged stuff the highest
    assert segments == [
        {"id": 1, "isthing": True, "category_id": 0, "area": 4},
        {"id": 2, "isthing": False, "category_id": 2, "area": 4},
        {"id": 3, "isthing": True, "category_id": 0, "area": 2},
        {"id": 4, "isthing": False, "category_id": 3, "area": 3},
    ]


def test_panoptic_drops_what_is_mostly_hidden() -> None:
    class_logits = classes({0: 0.99}, {1: 0.85}, {1: 0.85})
    mask_logits = masks(
        "####.. ......",
        "..##++ ......",  # the first takes half of its four cells
        "...... ######",
    )
    panoptic, segments = segment(class_logits, mask_logits)
    assert panoptic == [[1, 1, 1, 1, 0, 0], [2] * 6]
    assert [s["category_id"] for s in segments] == [0, 1]


def test_panoptic_drops_unlikely_queries_and_no_objects() -> None:
    panoptic, segments = segment(
        classes({0: 0.79}, {NUM_CLASSES: 0.99}, {1: 0.81}), masks("##..", "..#.", "...#")
    )
    assert (panoptic, len(segments)) == ([[0, 0, 0, 1]], 1)
    assert segment(classes({0: 0.5}), masks("##..")) == ([[0, 0, 0, 0]], [])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_panoptic_is_not_traced() -> None:
    inputs = (classes({0: 0.9}), masks("#."))
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace .* panoptic_on=False, .*export"):
        torch.jit.trace(lambda *logits: segment(*logits), inputs)


def segment_slowly(
    class_logits: Tensor, mask_logits: Tensor, uncertain_is_void: bool
) -> tuple[list, list]:
    """The rules of MaskFormer (arXiv 2107.06278, section 3.4), one query and one mask at a time."""
    scores, labels = class_logits.softmax(-1).max(-1)
    kept = [q for q in range(len(labels)) if labels[q] != NUM_CLASSES and scores[q] > 0.8]
    panoptic = torch.zeros(mask_logits.shape[1:], dtype=torch.int32)
    segments: list[dict] = []
    if not kept:
        return panoptic.tolist(), segments
    probabilities = mask_logits.sigmoid()
    best = torch.stack([scores[q] * probabilities[q] for q in kept]).argmax(0)
    for i, query in enumerate(kept):
        whole = probabilities[query] >= 0.5
        won = best == i
        visible = won & whole if uncertain_is_void else won
        if not visible.any() or not whole.any() or won.sum().item() / whole.sum().item() < 0.8:
            continue
        label = int(labels[query])
        of_stuff = [s for s in segments if s["category_id"] == label and label not in THINGS]
        if not of_stuff:
            of_stuff = [{"id": len(segments) + 1, "isthing": label in THINGS, "score": 0.0}]
            segments += of_stuff
        panoptic[visible] = of_stuff[0]["id"]
        of_stuff[0]["category_id"] = label
        of_stuff[0]["score"] = max(of_stuff[0]["score"], scores[query].item())
    for segment in segments:
        segment["area"] = int((panoptic == segment["id"]).sum())
    return panoptic.tolist(), segments


def generated(num_queries: int = 9, side: int = 12) -> tuple[Tensor, Tensor]:
    """Logits of noisy discs, most of them of a certain class."""
    likely = torch.randint(NUM_CLASSES + 1, (num_queries,))
    class_logits = torch.randn(num_queries, NUM_CLASSES + 1)
    class_logits[range(num_queries), likely] += 5
    centres = torch.rand(num_queries, 2, 1, 1) * side
    y, x = torch.arange(float(side))[:, None], torch.arange(float(side))
    distances = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2).sqrt()
    return class_logits, 3 - distances + torch.randn(num_queries, side, side)


@pytest.mark.parametrize("rules", ["original", "mask2former", "hugging_face"])
@pytest.mark.parametrize("at_once", [1, 4, 9])
def test_panoptic_equals_a_slow_loop(rules: str, at_once: int) -> None:
    num_segments = set()
    for _ in range(20):
        logits = generated()
        expected = segment_slowly(*logits, uncertain_is_void=rules != "hugging_face")
        assert segment(*logits, at_once=at_once, rules=rules) == expected
        num_segments.add(len(expected[1]))
    assert len(num_segments) > 2


def test_equal_scores_go_to_the_first_query() -> None:
    logits = classes({0: 0.9}, {1: 0.9}), masks("##", "##")
    assert segment(*logits) == segment(*logits, at_once=2)
    assert segment(*logits)[0] == [[1, 1]]


def test_instances_are_the_best_pairs_of_query_and_class() -> None:
    class_logits = classes({0: 0.6, 1: 0.3}, {2: 0.9}, {1: 0.5})
    mask_logits = masks("##.. ....", ".... ..##", "...# ...#")
    instances = instance_segmentation(
        class_logits, mask_logits, resize=unchanged(mask_logits), topk=3
    )
    assert instances.pred_classes.tolist() == [2, 0, 1]
    assert instances.scores.tolist() == pytest.approx([0.9, 0.6, 0.5], abs=1e-4)
    assert instances.image_size == (2, 4)
    assert torch.equal(instances.pred_masks, (mask_logits > 0)[[1, 0, 2]])
    assert instances.pred_boxes.tensor.tolist() == [[2, 1, 4, 2], [0, 0, 2, 1], [3, 0, 4, 2]]


@pytest.mark.parametrize(
    ("rules", "topk", "expected"),
    [
        ("original", 3, [0, 1]),  # the best pair is stuff, and takes the place of a thing
        ("mask2former", 3, [0, 1]),
        ("things_first", 3, [0, 1, 1]),
        ("original", 100, [0, 1, 1, 0, 0, 1]),
        ("things_first", 100, [0, 1, 1, 0, 0, 1]),
    ],
)
def test_instances_of_things_only(rules: str, topk: int, expected: list[int]) -> None:
    logits = classes({0: 0.6, 1: 0.3}, {2: 0.9, 0: 0.02, 1: 0.01}, {1: 0.5, 0: 0.1})
    mask_logits = masks("##.. ....", ".... ..##", "...# ...#")
    instances = instance_segmentation(
        logits,
        mask_logits,
        resize=unchanged(mask_logits),
        topk=topk,
        thing_classes=THINGS,
        rules=RULES[rules],
    )
    assert instances.pred_classes.tolist() == expected
    queries = [0, 2, 0, 2, 1, 1]
    assert torch.equal(instances.pred_masks, (mask_logits > 0)[queries[: len(expected)]])


def test_no_thing_among_the_best() -> None:
    mask_logits = masks("##", "##")
    instances = instance_segmentation(
        classes({2: 0.9}, {3: 0.8}),
        mask_logits,
        resize=unchanged(mask_logits),
        topk=2,
        thing_classes=THINGS,
    )
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 1, 2) and instances.pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("at_once", [1, 4, 50])
def test_instances_do_not_depend_on_how_many_masks_are_resized_at_once(at_once: int) -> None:
    logits = generated(num_queries=9)
    expected, actual = (
        instance_segmentation(*logits, resize=unchanged(logits[1], count), topk=20)
        for count in (20, at_once)
    )
    assert len(expected) == 20
    for field in ("pred_masks", "pred_classes", "scores"):
        assert torch.equal(actual.get(field), expected.get(field))
    assert torch.equal(actual.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_uncertain_masks_lower_the_score() -> None:
    mask_logits = masks("#+-.")
    instances = instance_segmentation(
        classes({0: 1.0}), mask_logits, resize=unchanged(mask_logits), topk=1
    )
    inside = torch.tensor([20.0, 1.0]).sigmoid().mean()
    assert instances.scores.item() == pytest.approx(float(inside), abs=1e-4)


def test_boxes_equal_detectron2s() -> None:
    drawn = torch.rand(20, 9, 13) > 0.97
    drawn[3] = False
    drawn[4] = True
    expected = BitMasks(drawn).get_bounding_boxes().tensor
    assert torch.equal(boxes_around(drawn), expected)
    assert boxes_around(drawn[:0]).shape == (0, 4)
