"""Official label files in MATLAB's format."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from vit_adapter.data.semantic.preparation import read_official
from vit_adapter.data.semantic.sets import Conversion

LABELS = np.array([[0, 1, 2], [30, 31, 32]], np.uint8)
CONVERSION = Conversion(np.arange(256, dtype=np.uint8), frozenset(range(40)), mat_key="S")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_types_of_matlab_files(dtype: type, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"S": LABELS.astype(dtype), "names": ["a", "b"]})
    assert np.array_equal(read_official(tmp_path / "a.mat", CONVERSION), LABELS)


def test_broken_matlab_files(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"T": LABELS})
    savemat(tmp_path / "b.mat", {"S": LABELS + 0.5})
    for file in ("a.mat", "b.mat"):
        with pytest.raises(ValueError, match=f"{file} has no matrix of integers named 'S'"):
            read_official(tmp_path / file, CONVERSION)
    (tmp_path / "c.mat").write_bytes(b"MATLAB")
    with pytest.raises(ValueError, match=r"c\.mat cannot be read as a MATLAB file"):
        read_official(tmp_path / "c.mat", CONVERSION)
