"""The order of training images: endless, and a function of the seed and the sample number alone.

Sample number n is the n-th image that a run reads, over all processes and epochs, from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

import numpy as np
import torch

from vit_adapter.data.seeds import derive_seed


def sample_stream(
    size: int,
    seed: int,
    start: int = 0,
    *,
    landscape: Sequence[bool] | np.ndarray | None = None,
    group_size: int = 1,
) -> Iterator[int]:
    """Yield the record indices of the samples ``start``, ``start + 1``, ... without an end.

    Each epoch is a new permutation. If images are grouped, an image may move into the next epoch to
    complete a group. After ``group_size`` epochs all groups are complete, so a stream can start
    close to any sample.

    Args:
        size: number of records.
        seed: any whole number.
        start: number of the first sample, from 0.
        landscape: for each record, whether it is wider than high; needed for groups.
        group_size: see :func:`group_by_orientation`; 1 does not group.
    """
    rounds, passed = divmod(start, size * group_size)
    indices = _permutations(size, seed, rounds * group_size)
    if group_size > 1:
        indices = group_by_orientation(indices, landscape, group_size)
    return islice(indices, passed, None)


def group_by_orientation(
    indices: Iterable[int], landscape: Sequence[bool] | np.ndarray, group_size: int
) -> Iterator[int]:
    """Reorder indices so that each ``group_size`` consecutive ones have the same orientation.

    As in Detectron2, a group is complete with the last of its images.

    Args:
        indices: of records, finite or endless; an incomplete group at the end is left out.
        landscape: for each record, whether it is wider than high.
        group_size: images in a group, at least 1.
    """
    groups: dict[bool, list[int]] = {False: [], True: []}
    for index in indices:
        group = groups[bool(landscape[index])]
        group.append(index)
        if len(group) == group_size:
            yield from group
            group.clear()


def _permutations(size: int, seed: int, epoch: int) -> Iterator[int]:
    for number in count(epoch):
        generator = torch.Generator().manual_seed(derive_seed("epoch", seed, number))
        yield from torch.randperm(size, generator=generator).tolist()
