"""The variants of the backbone differ only in the operator."""

import os

import torch

from vit_adapter.benchmark import backbone
from vit_adapter.layers import deform_attn


def test_variants_compute_the_same_in_different_ways(monkeypatch):
    used = []

    def record(*inputs: object) -> torch.Tensor:
        used.append(os.environ.get(backbone.FORCE_REFERENCE))
        return compute(*inputs)

    compute = deform_attn.ms_deform_attn
    monkeypatch.setattr(deform_attn, "ms_deform_attn", record)
    model = backbone.build("tiny", torch.device("cpu")).eval()
    call = backbone.forward_call(model, torch.randn(1, 3, 64, 64))
    ours, reference = call(), backbone.with_grid_sample(call)()
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
    calls = len(used) // 2
    assert used[:calls] != used[calls:]
    assert set(used[calls:]) == {"1"}
