"""Golden cases in a folder of ``.npz`` files, and the arrays of them that tests read."""

import json
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

__all__ = ["Arrays", "Case", "CaseFiles", "check"]

Arrays = Mapping[str, Tensor]


class Case(Arrays):
    """The arrays of a file that one test reads, and the inputs that they belong to.

    Args:
        kind: what comes before the first "_" in the name of the file.
        arrays: by name.
        unread: names of the arrays that nobody has asked for yet.
        prefix: only the names that begin with this are visible, without it.
    """

    def __init__(
        self, kind: str, arrays: dict[str, Tensor], unread: set[str], prefix: str = ""
    ) -> None:
        self.kind = kind
        self.unread = unread
        self._arrays = arrays
        self._prefix = prefix

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(self._prefix + name)
        return self._arrays[self._prefix + name]

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._arrays

    def __iter__(self) -> Iterator[str]:
        start = self._prefix
        return (name.removeprefix(start) for name in self._arrays if name.startswith(start))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def within(self, prefix: str) -> "Case":
        """The arrays whose names begin with ``prefix``, without it."""
        return Case(self.kind, self._arrays, self.unread, self._prefix + prefix)

    def numbered(self, name: str, *, first: int = 0) -> list[Tensor]:
        """The arrays ``name0``, ``name1``, ..., from the number ``first`` on."""
        count = sum(each.removeprefix(name).isdecimal() for each in self if each.startswith(name))
        return [self[f"{name}{i}"] for i in range(first, first + count)]


class CaseFiles:
    """The files of a folder, and which of their arrays the tests claim to read.

    Args:
        variable: the environment variable that may name another folder.
        default: name of the folder beside this file.
        inputs: names of the inputs of a case, with wildcards.
    """

    def __init__(self, variable: str, default: str, *, inputs: tuple[str, ...]) -> None:
        self.folder = Path(os.environ.get(variable) or Path(__file__).parent / default)
        self._inputs = inputs
        self._claims: list[tuple[str, tuple[str, ...]]] = []

    def config(self, kind: str) -> dict[str, Any]:
        """The entry ``kind`` of ``config.json``."""
        return json.loads((self.folder / "config.json").read_text())[kind]

    def read(self, name: str) -> dict[str, Tensor]:
        """All arrays of a file; those in float16 hold exact values and become float64."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as data:
            arrays = {key: torch.from_numpy(data[key]) for key in data.files}
        return {k: v.double() if v.dtype == torch.float16 else v for k, v in arrays.items()}

    def open(self, file: str, names: tuple[str, ...]) -> Case:
        """The inputs in a file, and the arrays with one of the names."""
        arrays = {k: v for k, v in self.read(file).items() if _matches(k, (*self._inputs, *names))}
        unread = {name for name in arrays if not _matches(name, self._inputs)}
        return Case(file.partition("_")[0], arrays, unread)

    def reads(self, files: str, *names: str) -> pytest.MarkDecorator:
        """Run a test, which has an argument ``case``, for each of some files.

        Args:
            files: names without suffix, with wildcards; several are separated by spaces.
            names: of arrays, with wildcards.
        """
        self._claims.extend((file, names) for file in files.split())
        found = sorted(
            path.stem for file in files.split() for path in self.folder.glob(f"{file}.npz")
        )
        params = [(file, names) for file in found]
        return pytest.mark.parametrize("case", params, ids=found, indirect=True)

    def lend(self, request: pytest.FixtureRequest) -> Iterator[Case]:
        """The fixture ``case``: what a test reads; afterwards nothing of it may be left."""
        file, names = request.param
        case = self.open(file, names)
        yield case
        assert not case.unread, f"{file}.npz has arrays that the test did not read: {case.unread}"

    def unread(self) -> list[str]:
        """Arrays that no test reads, inputs aside.

        Parameters (``<kind>_params.npz``) are loaded whole for the files ``<kind>`` and
        ``<kind>_...``.
        """
        result, read, parameters = [], [], []
        for path in sorted(self.folder.glob("*.npz")):
            claims = [names for file, names in self._claims if fnmatchcase(path.stem, file)]
            if path.stem.endswith("_params"):
                parameters.append(path.stem.removesuffix("_params"))
                continue
            if claims:
                read.append(path.stem)
            known = (*self._inputs, *(name for names in claims for name in names))
            with np.load(path) as data:
                result += [f"{path.name}: {name}" for name in data if not _matches(name, known)]
        return result + [
            f"{kind}_params.npz"
            for kind in parameters
            if not any(name == kind or name.startswith(f"{kind}_") for name in read)
        ]

    def unmatched_claims(self) -> list[str]:
        """Claims of tests for which there is no file."""
        return [file for file, _ in self._claims if not list(self.folder.glob(f"{file}.npz"))]


def check(computed: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Compare relative to the largest magnitude; whole numbers exactly.

    Results in float32 are compared if the tolerance allows it.
    """
    computed = computed.detach()
    if not expected.is_floating_point():
        assert torch.equal(computed.to(expected.dtype), expected)
        return
    assert computed.dtype == torch.float64 or tolerance > 1e-7
    assert computed.shape == expected.shape
    scale = max(expected.abs().max().item() if expected.numel() else 0.0, 1e-3)
    torch.testing.assert_close(
        computed.to(expected.dtype), expected, rtol=0, atol=tolerance * scale
    )


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
