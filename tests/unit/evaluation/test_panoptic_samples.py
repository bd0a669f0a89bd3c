"""Panoptic quality of the two sample images of COCO's panoptic API, with worked-out values.

Only the classes, areas and crowds of their segments count, so the maps here are rows of pixels with
these areas.
"""

from collections.abc import Callable

import numpy as np
import pytest

from vit_adapter.evaluation.panoptic_quality import compute_quality, count_segments

CLASSES = ("person", "ball", "truck", "horse", "tree", "sky", "grass", "gravel", "bicycle")
NUM_THINGS = 4  # of the classes that are labelled; nothing is labelled as "bicycle"
NO_SEGMENT = (2712, 7189)
PEOPLE = (
    (3528, 3751, 2301, 4076, 2931, 2969, 3557, 477, 3968, 153, 3330, 355, 636),
    (3512, 797, 538, 2282, 1005, 2493, 1250, 2955, 496, 1521, 2202, 1222, 672),
)
CROWDS = ((("person", 24295),), (("person", 7839), ("horse", 421)))
OTHERS = (
    (("ball", 175), ("tree", 130762), ("sky", 8204), ("grass", 75100)),
    (
        *(("truck", area) for area in (1680, 5791)),
        *(("horse", a) for a in (4363, 573, 96, 2505, 4160, 1904, 2742, 5333, 3612, 4508, 1511)),
        *(("gravel", 11074), ("tree", 91045), ("sky", 12912), ("grass", 40197)),
    ),
)
Sample = tuple[np.ndarray, list[dict[str, int]]]


def sample(image: int) -> Sample:
    """Segment ids of all pixels, and the segments; the first is a person of 3528 or 3512 pixels."""
    people = [("person", area) for area in PEOPLE[image]]
    listed = [*people, *OTHERS[image], *CROWDS[image]]
    segments = [
        {"id": i, "category_id": CLASSES.index(name), "iscrowd": int((name, area) in CROWDS[image])}
        for i, (name, area) in enumerate(listed, start=1)
    ]
    areas = [NO_SEGMENT[image], *(area for _, area in listed)]
    return np.repeat(np.arange(len(areas)), areas)[None], segments


def unchanged(ids: np.ndarray, segments: list) -> None:
    pass


def without_a_person(ids: np.ndarray, segments: list) -> None:
    ids[ids == segments.pop(0)["id"]] = 0


def person_as_bicycle(ids: np.ndarray, segments: list) -> None:
    segments[0]["category_id"] = CLASSES.index("bicycle")


def person_without_a_quarter(ids: np.ndarray, segments: list) -> None:
    row, columns = np.nonzero(ids == segments[0]["id"])
    ids[row[2646:], columns[2646:]] = 0  # of 3528


@pytest.mark.parametrize(
    ("corrupt", "things", "per_cent"),
    [
        # 26 people, 1 ball, 2 trucks and 11 horses are all found
        (unchanged, [1, 1, 1, 1], 100),
        # 25 found and 1 missed: 25 / (25 + 1/2)
        (without_a_person, [25 / 25.5, 1, 1, 1], 99.7549),
        # and an error of a class that is not labelled
        (person_as_bicycle, [25 / 25.5, 1, 1, 1, 0], 88.6710),
        # all found, one of them with an IoU of 2646 / 3528 = 3/4
        (person_without_a_quarter, [25.75 / 26, 1, 1, 1], 99.8798),
    ],
)
def test_corruptions_of_the_first_image(
    corrupt: Callable[[np.ndarray, list], None], things: list[float], per_cent: float
) -> None:
    images = [sample(0), sample(1)]
    predictions = [sample(0), sample(1)]
    corrupt(*predictions[0])
    counts = sum(
        count_segments(*predicted, *labelled, len(CLASSES))
        for predicted, labelled in zip(predictions, images, strict=True)
    )
    found, _, _ = compute_quality(counts)
    is_thing = np.array([i < NUM_THINGS or name == "bicycle" for i, name in enumerate(CLASSES)])
    assert np.nanmean(found[is_thing]) == pytest.approx(np.mean(things))
    assert found[~is_thing].tolist() == [1, 1, 1, 1]
    assert 100 * np.nanmean(found) == pytest.approx(per_cent, abs=1e-4)
