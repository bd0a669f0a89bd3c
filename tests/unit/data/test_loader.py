"""The loader of training data: order, seeds and position."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import ChainDataset

from vit_adapter.data import TrainLoader

NUM_RECORDS = 11


def list_records() -> list[dict[str, Any]]:
    """Eleven images, four of them in landscape format."""
    return [
        {"index": index, "width": 3 if index < 4 else 2, "height": 2}
        for index in range(NUM_RECORDS)
    ]


def draw(record: dict[str, Any]) -> dict[str, Any]:
    """A mapper that uses all three generators."""
    numbers = [np.random.rand(), random.random(), torch.rand(1).item()]
    return {"index": record["index"], "image": torch.tensor(numbers), "array": np.zeros(2)}


def read(count: int, *, seed: int = 5, step: int = 0, **options: Any) -> list[list[dict]]:
    """Read some batches."""
    options = {"dataset": list_records(), "mapper": draw, "total_batch_size": 4, **options}
    loader = TrainLoader(**options)
    loader.begin(seed=seed, step=step)
    return list(islice(loader, count))


def plain(batches: list[list[dict]]) -> list[list[tuple]]:
    """Everything in batches, in a form that can be compared."""
    return [[(d["index"], d["sample_seed"], *d["image"].tolist()) for d in b] for b in batches]


def indices(batches: list[list[dict]]) -> list[int]:
    return [inputs["index"] for batch in batches for inputs in batch]


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch):
    """Plays one of several processes."""

    def play(rank: int, world_size: int) -> None:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)

    return play


@pytest.mark.parametrize("options", [{}, {"aspect_ratio_grouping": False, "total_batch_size": 3}])
def test_workers_change_nothing(options: dict) -> None:
    expected = plain(read(8, **options))
    assert plain(read(8, num_workers=1, **options)) == expected
    assert plain(read(8, num_workers=2, **options)) == expected
    assert len({image for batch in expected for image in batch}) == sum(map(len, expected))


@pytest.mark.parametrize("options", [{}, {"aspect_ratio_grouping": False}, {"group_size": 3}])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_start_at_any_step_changes_nothing(options: dict, num_workers: int) -> None:
    expected = plain(read(12, **options))
    for step in (1, 5, 6):
        later = plain(read(12 - step, step=step, num_workers=num_workers, **options))
        assert later == expected[step:]


@pytest.mark.parametrize("grouping", [True, False])
def test_processes_share_the_images_of_a_step(process, grouping: bool) -> None:
    options = {"aspect_ratio_grouping": grouping}
    expected = plain(read(9, **options))
    for world_size in (2, 4):
        parts = []
        for rank in range(world_size):
            process(rank, world_size)
            parts.append(plain(read(6, step=3, **options)))
        joint = [sum(batches, []) for batches in zip(*parts, strict=True)]
        assert joint == expected[3:]


def test_order_and_augmentation_follow_from_the_seed() -> None:
    first, again, other = (plain(read(6, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert not {value for b in first for d in b for value in d[1:]} & {
        value for b in other for d in b for value in d[1:]
    }


def test_sample_seeds_are_whole_numbers_that_never_repeat() -> None:
    seeds = [inputs["sample_seed"] for batch in read(100) for inputs in batch]
    assert len(set(seeds)) == 400
    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_generators_of_the_training_are_left_alone(num_workers: int) -> None:
    states = np.random.get_state()[1], random.getstate(), torch.get_rng_state()
    read(2, num_workers=num_workers)
    assert np.array_equal(np.random.get_state()[1], states[0])
    assert random.getstate() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize(("options", "size"), [({}, 2), ({"group_size": 3}, 3)])
def test_consecutive_images_have_one_orientation(options: dict, size: int) -> None:
    taken = indices(read(20, total_batch_size=5, **options))
    taken = taken[: len(taken) // size * size]
    assert all(len(set(group)) == 1 for group in np.reshape(taken, (-1, size)) < 4)
    mixed = indices(read(20, total_batch_size=5, aspect_ratio_grouping=False))
    assert not all(len(set(group)) == 1 for group in np.reshape(mixed[:96], (-1, size)) < 4)


def test_nothing_is_converted() -> None:
    assert isinstance(read(1)[0][0]["array"], np.ndarray)


def odd_only(record: dict[str, Any]) -> dict[str, Any] | None:
    return draw(record) if record["index"] % 2 else None


def test_records_that_the_mapper_leaves_out_are_replaced() -> None:
    full, reduced = plain(read(9)), plain(read(9, mapper=odd_only))
    for before, after in zip(sum(full, []), sum(reduced, []), strict=True):
        assert after[0] % 2 == 1
        assert before[1] == after[1]
        assert before[0] == after[0] or before[0] % 2 == 0
    pairs = zip(sum(full, []), sum(reduced, []), strict=True)
    replaced = {after[0] for before, after in pairs if before != after}
    assert len(replaced) > 2
    assert plain(read(4, step=5, num_workers=2, mapper=odd_only)) == reduced[5:]


def test_a_mapper_that_leaves_out_everything_is_refused() -> None:
    with pytest.raises(RuntimeError, match="returned None for 1000 records in a row"):
        read(1, mapper=lambda record: None)


@pytest.mark.parametrize("grouping", [True, False])
def test_a_sampler_replaces_the_order(grouping: bool) -> None:
    def make(step: int, **options: Any) -> list[list[tuple]]:
        factors = torch.tensor([1.0] * (NUM_RECORDS - 1) + [9.5])
        sampler = RepeatFactorTrainingSampler(factors, seed=3)
        options |= {"sampler": sampler, "aspect_ratio_grouping": grouping}
        return plain(read(20 - step, step=step, **options))

    expected = make(0)
    taken = [sample[0] for batch in expected for sample in batch]
    assert taken.count(NUM_RECORDS - 1) > 4 * max(taken.count(index) for index in range(10))
    assert make(7, num_workers=2) == expected[7:]
    seeds = [sample[1] for batch in plain(read(20)) for sample in batch]
    assert [sample[1] for batch in expected for sample in batch] == seeds


def test_samplers_of_several_processes(process) -> None:
    expected = None
    numbers = []
    for rank in (None, 0, 1):
        if rank is not None:
            process(rank, 2)
        sampler = TrainingSampler(NUM_RECORDS, seed=3)
        batches = read(5, step=2, sampler=sampler, aspect_ratio_grouping=False)
        if rank is None:
            expected = batches
        else:
            numbers.append(batches)
    for step, parts in enumerate(zip(*numbers, strict=True)):
        assert sorted(indices(parts)) == sorted(indices([expected[step]]))
        seeds = [inputs["sample_seed"] for part in parts for inputs in part]
        assert seeds == [inputs["sample_seed"] for inputs in expected[step]]


def test_a_finite_sampler_ends_with_the_last_complete_batch() -> None:
    assert len(read(9, sampler=range(10), aspect_ratio_grouping=False)) == 2


def test_without_a_position_the_order_is_random() -> None:
    def first() -> list[int]:
        options = {"mapper": draw, "total_batch_size": 10}
        return indices(islice(TrainLoader(list_records(), **options), 2))

    np.random.seed(0)
    orders = first(), first()
    np.random.seed(0)
    assert orders[0] != orders[1] and first() == orders[0]


def test_what_does_not_fit_is_refused(process) -> None:
    with pytest.raises(TypeError, match="got ChainDataset, which can only be iterated over"):
        read(1, dataset=ChainDataset([]))
    with pytest.raises(ValueError, match="total_batch_size=0, expected a multiple of"):
        read(1, total_batch_size=0)
    with pytest.raises(ValueError, match="group_size=0, expected at least 1"):
        read(1, group_size=0)
    process(0, 3)
    with pytest.raises(ValueError, match="total_batch_size=4, .* the number of processes, 3"):
        read(1)
