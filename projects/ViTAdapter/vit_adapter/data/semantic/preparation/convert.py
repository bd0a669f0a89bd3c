"""Turns official label files into PNG files of class indices, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat
from tqdm import tqdm

from vit_adapter.data.image_io import read_label_picture
from vit_adapter.utils.atomic import atomic_open

_CHUNK = 16  # files handed to a process at once


@dataclass(frozen=True)
class Part:
    """One split of a data set; a file's name is its path below its folder without the suffix.

    Attributes:
        name: for messages, such as "train".
        images: folder of the images.
        labels: folder of the official label files.
        target: folder of the label pictures to be written.
        count: official number of images.
        image_origin: archive and official site of the images, for messages.
        label_origin: likewise of the labels.
        names_file: text file with a name a line; None if all images of the folder belong to it.
        image_suffix: ends the file names of the images.
        label_suffix: ends those of the official label files.
        target_suffix: ends those of the pictures to be written.
    """

    name: str
    images: Path
    labels: Path
    target: Path
    count: int
    image_origin: str
    label_origin: str
    names_file: Path | None = None
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    target_suffix: str = ".png"


@dataclass(frozen=True)
class Conversion:
    """What the values of official label files mean.

    Attributes:
        table: (number of values,) uint8: class index of each value, 255 for values without class.
        valid: the values that official files hold; any other is an error.
        mat_key: variable of MATLAB files that holds the labels; None for pictures.
    """

    table: np.ndarray
    valid: frozenset[int]
    mat_key: str | None = None

    def read(self, path: Path) -> np.ndarray:
        """Read an official label file as class indices.

        Returns:
            (H, W) uint8.

        Raises:
            ValueError: the file cannot be read, or has values that do not belong there.
        """
        values = read_label_picture(path) if self.mat_key is None else _read_mat(path, self.mat_key)
        wrong = sorted(set(_occurring(values)) - self.valid)
        if wrong:
            raise ValueError(
                f"{path} has the values {wrong[:8]}, which official label files do not have: they "
                f"have {min(self.valid)} to {max(self.valid)}. Is it of another release, or edited?"
            )
        return self.table[values]


def convert_part(
    part: Part, names: Iterable[str], conversion: Conversion, *, workers: int = 1
) -> int:
    """Write the label pictures of a part that are not there yet, with a progress bar.

    A picture gets its name when it is complete, so that an interrupted run can go on.

    Args:
        part: where the files are.
        names: of the files.
        conversion: meaning of the official values.
        workers: number of processes.

    Returns:
        How many pictures were written.

    Raises:
        ValueError: a label file cannot be read or has unknown values.
    """
    targets = {name: part.target / f"{name}{part.target_suffix}" for name in names}
    todo = [name for name, target in targets.items() if not target.is_file()]
    sources = [part.labels / f"{name}{part.label_suffix}" for name in todo]
    for folder in {targets[name].parent for name in todo}:
        folder.mkdir(parents=True, exist_ok=True)
    with _mapper(workers) as apply:
        done = apply(partial(_convert_file, conversion), sources, [targets[name] for name in todo])
        bar = tqdm(done, total=len(todo), desc=part.name, unit="file", mininterval=0.5)
        return sum(1 for _ in bar)


@contextmanager
def _mapper(workers: int) -> Iterator:
    """Yield a function like ``map`` that works in one or several processes."""
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield partial(pool.map, chunksize=_CHUNK)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the error shall not wait for thousands of files
            raise


def _convert_file(conversion: Conversion, source: Path, target: Path) -> None:
    picture = Image.fromarray(conversion.read(source))
    with atomic_open(target, "wb", flush=False) as stream:
        picture.save(stream, format="PNG")


def _occurring(values: np.ndarray) -> list[int]:
    if values.dtype == np.uint8:  # much faster than sorting a large picture
        return np.flatnonzero(np.bincount(values.ravel())).tolist()
    return np.unique(values).tolist()


def _read_mat(path: Path, key: str) -> np.ndarray:
    """Read a matrix (H, W) of integers, of whatever type, from a MATLAB file."""
    try:
        content = loadmat(path, variable_names=[key])
    except Exception as error:  # loadmat raises whatever a damaged file leads to
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error!r}.") from error
    values = content.get(key)
    if values is None or values.ndim != 2 or values.dtype.kind not in "iuf" or (values % 1).any():
        raise ValueError(f"{path} holds no matrix of integers named {key!r}.")
    return values.astype(np.int64) if values.dtype.kind == "f" else values
