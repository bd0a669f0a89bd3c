"""The start of deformable attention against numbers of the original's module."""

import re
from pathlib import Path

import numpy as np
import torch

from vit_adapter.layers import MSDeformAttn

FILE = Path(__file__).parent / "golden" / "msda_init.npz"
NAME = re.compile(r"sampling_offsets_bias_d(\d+)_L(\d+)_h(\d+)_p(\d+)")


def test_sampling_offsets_start_as_the_originals() -> None:
    with np.load(FILE) as stored:
        for name in stored.files:
            dim, levels, heads, points = map(int, NAME.fullmatch(name).groups())
            module = MSDeformAttn(dim, num_heads=heads, num_levels=levels, num_points=points)
            expected = torch.from_numpy(stored[name]).float()
            torch.testing.assert_close(module.sampling_offsets.bias, expected, atol=1e-6, rtol=0)
        assert len(stored.files) == 4
