"""The loader of training data: the same images in the same order on any number of processes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count, islice
from typing import Any

import torch
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from vit_adapter.data.records import Records, find_landscape
from vit_adapter.data.sampling import group_by_orientation, sample_stream
from vit_adapter.data.seeds import derive_seed, seeded
from vit_adapter.data.workers import (
    WorkerBoard,
    leave_signals_to_main,
    start_workers,
    wait_for_samples,
)

_Record = Mapping[str, Any]
_MAX_TRIES = 1000
_CHECK = 5  # seconds


class TrainLoader:
    """Endless batches, in place of ``detectron2.data.build_detection_train_loader``.

    Step k trains on the samples k * B to (k + 1) * B - 1 of one stream, where B is the total batch
    size, and process r gets its r-th consecutive part. What is random about a sample, order and
    augmentation, follows from the seed and its number alone: not from the number of workers or
    processes, nor from the step at which a run was resumed.

    Each input dict gets "sample_seed" (int, 0 to 2**32 - 1), for everything else that is random
    about its image.

    If the mapper returns None for a record, another one takes its place, chosen by the seed of the
    sample.

    Args:
        dataset: a list of records in Detectron2's format, or a data set with a length.
        mapper: maps a record to the input of a model, or to None. It draws random numbers from
            NumPy, Python or PyTorch, and keeps no random state of its own.
        total_batch_size: images of a step over all processes, divisible by their number.
        aspect_ratio_grouping: puts landscape images together in groups of consecutive samples, and
            all others as well, so that a process pads its images less. Records need "width" and
            "height".
        group_size: images in such a group. Two is the number per GPU in the published trainings. It
            does not depend on the number of processes, because it changes the order.
        num_workers: worker processes; 0 reads the images in the training process.
        timeout: seconds without an image from the workers after which an error is raised, which
            names the files that they are reading; 0 waits without an end.
        sampler: yields record indices for this process in place of the stream, such as Detectron2's
            ``RepeatFactorTrainingSampler``. Give it a seed (``seed="${train.seed}"``), or a resumed
            run gets another order. What several processes read is then up to it.

    Attributes:
        board: what the workers are reading; None before the first iterator.

    Raises:
        TypeError: ``dataset`` is iterable only.
        ValueError: the batch cannot be divided, a group is empty, or a record has no size.
    """

    def __init__(
        self,
        dataset: list[_Record] | Dataset,
        *,
        mapper: Callable[[_Record], dict[str, Any] | None],
        total_batch_size: int,
        aspect_ratio_grouping: bool = True,
        group_size: int = 2,
        num_workers: int = 0,
        timeout: float = 600,
        sampler: Sampler[int] | None = None,
    ) -> None:
        if isinstance(dataset, IterableDataset):
            raise TypeError(
                "TrainLoader needs a data set with a length and an index, got "
                f"{type(dataset).__name__}, which can only be iterated over. Use "
                "detectron2.data.build_detection_train_loader for it."
            )
        num_processes = comm.get_world_size()
        if total_batch_size < 1 or total_batch_size % num_processes:
            raise ValueError(
                f"total_batch_size={total_batch_size}, expected a multiple of the number of "
                f"processes, {num_processes}."
            )
        if group_size < 1:
            raise ValueError(f"group_size={group_size}, expected at least 1.")
        self._records = Records(dataset) if isinstance(dataset, list) else dataset
        self._mapper = mapper
        self._total = total_batch_size
        self._batch_size = total_batch_size // num_processes
        self._group_size = group_size if aspect_ratio_grouping else 1
        self._landscape = find_landscape(self._records) if self._group_size > 1 else None
        self._num_workers = num_workers
        self._timeout = timeout
        self._sampler = sampler
        self.board: WorkerBoard | None = None
        self._seed: int | None = None
        self._start = 0

    def begin(self, *, seed: int, step: int) -> None:
        """Set the seed, and the step of the first batch of the next iterator.

        Without this call the seed is drawn, the same for all processes, and the step is 0.

        Args:
            seed: any whole number.
            step: from 0.
        """
        self._seed, self._start = seed, step

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        if self._seed is None:
            self._seed = comm.shared_random_seed()
        # Workers make single samples, not batches: the first batch is ready sooner, and fewer
        # images are in memory. Two batches are prepared ahead.
        self.board = WorkerBoard(self._num_workers)
        ahead = max(2, math.ceil(2 * self._batch_size / max(1, self._num_workers)))
        samples = start_workers(
            DataLoader(
                _Samples(self._records, self._mapper, self._seed, self.board),
                sampler=self._numbered_indices(),
                batch_size=None,
                collate_fn=_as_it_is,
                num_workers=self._num_workers,
                # PyTorch looks for dead workers only after this time.
                timeout=min(self._timeout or _CHECK, _CHECK) if self._num_workers else 0,
                worker_init_fn=leave_signals_to_main,
                prefetch_factor=ahead if self._num_workers else None,
                generator=torch.Generator(),  # leaves that of the training alone
            )
        )
        samples = wait_for_samples(samples, self._timeout)
        while len(batch := list(islice(samples, self._batch_size))) == self._batch_size:
            yield batch

    def _numbered_indices(self) -> Iterable[tuple[int, int]]:
        """Yield sample number and record index of each sample of this process."""
        first, rank = self._start * self._total, comm.get_rank()

        def is_own(number: int) -> bool:
            return number % self._total // self._batch_size == rank

        if self._sampler is not None:
            indices: Iterable[int] = self._sampler
            if self._group_size > 1:
                indices = group_by_orientation(indices, self._landscape, self._group_size)
            indices = islice(indices, self._start * self._batch_size, None)
            return zip(filter(is_own, count(first)), indices, strict=False)
        stream = sample_stream(
            len(self._records),
            self._seed,
            first,
            landscape=self._landscape,
            group_size=self._group_size,
        )
        return ((number, index) for number, index in enumerate(stream, first) if is_own(number))


class _Samples(Dataset):
    """Maps (sample number, record index) to an input dict."""

    def __init__(self, records: Dataset, mapper: Callable, seed: int, board: WorkerBoard) -> None:
        self._records = records
        self._mapper = mapper
        self._seed = seed
        self._board = board

    def __getitem__(self, sample: tuple[int, int]) -> dict[str, Any]:
        number, index = sample
        seed = derive_seed("sample", self._seed, number)
        with seeded(seed):
            return {**self._map(int(index)), "sample_seed": seed}

    def _map(self, index: int) -> dict[str, Any]:
        for _ in range(_MAX_TRIES):
            record = self._records[index]
            with self._board.reading(record.get("file_name", "a record without a file name")):
                result = self._mapper(record)
            if result is not None:
                return result
            index = random.randrange(len(self._records))
        raise RuntimeError(
            f"The mapper of the training data returned None for {_MAX_TRIES} records in a row. It "
            "leaves out records in this way, but has to accept some of them."
        )


def _as_it_is(sample: dict[str, Any]) -> dict[str, Any]:
    """Stand in for PyTorch's default, which would turn NumPy arrays into tensors."""
    return sample
