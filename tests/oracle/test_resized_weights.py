"""Resized pre-trained weights against numbers of the original's loaders and scripts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vit_adapter.checkpoint.pretrained.patch_kernel import resize_patch_kernel
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


def test_patch_kernels_of_14_pixels_at_16() -> None:
    """The original's conversion of DINOv2."""
    with np.load(GOLDEN / "patch_14to16.npz") as data:
        source, expected = torch.from_numpy(data["src"]), torch.from_numpy(data["dst"])
    resized = resize_patch_kernel(source, 16, "bilinear")
    torch.testing.assert_close(resized, expected, atol=1e-6, rtol=1e-5)
