"""The order of training images."""

import time
from itertools import islice

import numpy as np
import pytest

from vit_adapter.data.sampling import group_by_orientation, sample_stream


def take(count: int, *args: int, **options: object) -> list[int]:
    return list(islice(sample_stream(*args, **options), count))


def slow_groups(indices: list[int], landscape: list[bool], size: int) -> list[int]:
    """As in Detectron2: images wait until there are ``size`` of the same orientation."""
    waiting: list[list[int]] = [[], []]
    done = []
    for index in indices:
        waiting[landscape[index]].append(index)
        for group in waiting:
            if len(group) == size:
                done += group
                group.clear()
    return done


def test_every_epoch_is_another_permutation() -> None:
    epochs = np.reshape(take(35, 7, 3), (5, 7))
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_order_follows_from_the_seed() -> None:
    orders = [take(100, 50, seed) for seed in (1, 1, 2, -1, 10**20)]
    assert orders[0] == orders[1]
    assert len(set(map(tuple, orders))) == 4


@pytest.mark.parametrize("group_size", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 1, 6, 7, 8, 13, 14, 29, 100])
def test_a_stream_can_start_anywhere(group_size: int, start: int) -> None:
    options = {"landscape": [True] * 3 + [False] * 4, "group_size": group_size}
    assert take(60, 7, 5, start, **options) == take(start + 60, 7, 5, **options)[start:]


@pytest.mark.parametrize("group_size", [2, 3, 4])
@pytest.mark.parametrize("num_landscape", [0, 1, 6, 11])
def test_groups_have_one_orientation(group_size: int, num_landscape: int) -> None:
    landscape = [True] * num_landscape + [False] * (11 - num_landscape)
    taken = take(11 * group_size * 3, 11, 5, landscape=landscape, group_size=group_size)
    for group in np.reshape([landscape[index] for index in taken], (-1, group_size)):
        assert len(set(group)) == 1
    # After group_size epochs no image is left over.
    for part in np.reshape(taken, (3, -1)):
        assert np.bincount(part, minlength=11).tolist() == [group_size] * 11
    assert taken == slow_groups(take(11 * group_size * 3, 11, 5), landscape, group_size)


def test_an_incomplete_group_at_the_end_is_left_out() -> None:
    landscape = [True, False, False, True, False]
    assert list(group_by_orientation(range(5), landscape, 2)) == [1, 2, 0, 3]


def test_a_late_start_is_quick() -> None:
    """The middle of the 36th epoch of COCO."""
    size = 117_266
    landscape = np.arange(size) % 3 > 0
    start = time.perf_counter()
    assert len(take(16, size, 0, 35 * size + size // 2, landscape=landscape, group_size=2)) == 16
    assert time.perf_counter() - start < 5
