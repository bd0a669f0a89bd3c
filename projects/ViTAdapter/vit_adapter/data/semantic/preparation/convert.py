"""Converts official label files to PNG files of class indices, one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat
from tqdm import tqdm

from vit_adapter.data.image_io import read_label_map
from vit_adapter.data.semantic.sets.definition import Conversion, Split
from vit_adapter.utils.atomic import atomic_open

_CHUNK = 16  # files that a process gets at once


def read_official(path: Path, conversion: Conversion) -> np.ndarray:
    """Read an official label file as class indices.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: the file cannot be read, or has unknown values.
    """
    key, valid = conversion.mat_key, conversion.valid
    values = read_label_map(path) if key is None else _read_mat(path, key)
    wrong = sorted(set(_occurring(values)) - valid)
    if wrong:
        raise ValueError(
            f"{path} has the values {wrong[:8]}, but official label files have only "
            f"{_describe(valid)}. Is it from another release, or was it edited?"
        )
    return conversion.table[values]


def convert_split(split: Split, names: Iterable[str], *, workers: int = 1) -> int:
    """Write the label maps of a split that do not exist yet, with a progress bar.

    A map gets its name only when it is complete, so an interrupted run can be continued.

    Args:
        split: the split, with paths below the data root.
        names: names of the files.
        workers: number of processes.

    Returns:
        The number of maps written.

    Raises:
        ValueError: a label file cannot be read or has unknown values.
    """
    targets = {name: split.prepared / f"{name}{split.prepared_suffix}" for name in names}
    todo = [name for name, target in targets.items() if not target.is_file()]
    sources = [split.official / f"{name}{split.official_suffix}" for name in todo]
    for folder in {targets[name].parent for name in todo}:
        folder.mkdir(parents=True, exist_ok=True)
    with parallel_map(workers) as apply:
        convert = partial(_convert_file, split.conversion)
        done = apply(convert, sources, [targets[name] for name in todo])
        bar = tqdm(done, total=len(todo), desc=split.title, unit="file", mininterval=0.5)
        return sum(1 for _ in bar)


@contextmanager
def parallel_map(workers: int) -> Iterator:
    """Yield a function like ``map`` that works in one or several processes."""
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield partial(pool.map, chunksize=_CHUNK)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # report the error without waiting for all files
            raise


def _convert_file(conversion: Conversion, source: Path, target: Path) -> None:
    picture = Image.fromarray(read_official(source, conversion))
    with atomic_open(target, "wb", flush=False) as stream:
        picture.save(stream, format="PNG")


def _describe(values: Collection[int]) -> str:
    if len(values) == max(values) - min(values) + 1:
        return f"{min(values)} to {max(values)}"
    return ", ".join(map(str, sorted(values)))


def _occurring(values: np.ndarray) -> list[int]:
    if values.dtype == np.uint8:  # much faster than sorting a large map
        return np.flatnonzero(np.bincount(values.ravel())).tolist()
    return np.unique(values).tolist()


def _read_mat(path: Path, key: str) -> np.ndarray:
    """Read a matrix (H, W) of integers, of any type, from a MATLAB file."""
    try:
        content = loadmat(path, variable_names=[key])
    except Exception as error:  # a damaged file can make loadmat raise anything
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error!r}.") from error
    values = content.get(key)
    if values is None or values.ndim != 2 or values.dtype.kind not in "iuf" or (values % 1).any():
        raise ValueError(f"{path} has no matrix of integers named {key!r}.")
    return values.astype(np.int64) if values.dtype.kind == "f" else values
