"""Multi-scale deformable attention against vectors of the original's PyTorch formulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vit_adapter.ops import ms_deform_attn, ms_deform_attn_reference
from vit_adapter.ops.reference import ms_deform_attn_embedding_bag

GOLDEN = Path(__file__).parent / "golden" / "msda_op.npz"
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.mark.parametrize(
    "function", [ms_deform_attn, ms_deform_attn_reference, ms_deform_attn_embedding_bag]
)
@pytest.mark.parametrize("case", ["injector_like", "extractor_like", "odd_dims"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_output_and_gradients(function, case, dtype, device):
    with np.load(GOLDEN) as archive:
        arrays = {
            key.removeprefix(f"{case}/"): archive[key] for key in archive if key.startswith(case)
        }
    shapes = [(int(height), int(width)) for height, width in arrays["shapes"]]
    value, locations, weights, grad_output = (
        torch.from_numpy(arrays[key]).to(device, dtype) for key in ("value", "loc", "attn", "w")
    )
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    output = function(value, shapes, locations, weights)
    gradients = torch.autograd.grad(output, leaves, grad_output)
    for key, actual in zip(
        ("out", "grad_value", "grad_loc", "grad_attn"), (output, *gradients), strict=True
    ):
        expected = torch.from_numpy(arrays[key])
        scale = TOLERANCES[dtype] * max(1.0, expected.abs().max().item())
        torch.testing.assert_close(actual.detach().cpu().double(), expected, atol=scale, rtol=0)
