"""Resized pre-trained weights against numbers of the original's loaders and scripts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vit_adapter.layers.relative_position import resize_offsets

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("name", "targets"), [("segmentation", 5), ("detection", 2)])
def test_relative_position_tables(name: str, targets: int) -> None:
    """The detection loader discards the three rows of the class token."""
    with np.load(GOLDEN / f"relpos_{name}.npz") as data:
        window = int(data["src_window"])
        source = torch.from_numpy(data["src_table"])
        expected = {key: torch.from_numpy(data[key]) for key in data.files if "/dst" in key}
    assert len(expected) == targets
    if name == "detection":
        source = source[:-3]
    for key, table in expected.items():
        side = int(key.rpartition("dst")[2])
        resized = resize_offsets(source, (window, window), (side, side))
        torch.testing.assert_close(
            resized, table, atol=1e-6, rtol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )
