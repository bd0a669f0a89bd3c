"""The operator's benchmark counts bytes, draws the right points, and measures what runs."""

import pytest
import torch

from vit_adapter.benchmark import op
from vit_adapter.ops import ms_deform_attn_reference


def test_counts_the_bytes_that_must_be_moved():
    inputs = op.make_inputs(op.Case(512, 6, 64, (16,), (8, 16, 32)), "uniform")
    forward, training = op.minimal_bytes(inputs)
    assert forward == pytest.approx(10.7e6, rel=0.01)
    assert training - forward == pytest.approx(19.9e6, rel=0.01)


def test_counts_the_bytes_that_are_added_up():
    inputs = op.make_inputs(op.CASES["Mask2Former 1024"], "local")
    assert op.reduced_bytes(inputs) == 21504 * 8 * 12 * 4 * 32 * 4
    device = inputs.value.device
    assert op.reduced_bytes(inputs.to(device, torch.bfloat16)) == op.reduced_bytes(inputs)


class CompilationError(Exception):
    """As Triton's, of no type that PyTorch raises."""


def test_only_kernels_of_other_projects_may_refuse(capsys):
    def refuse(*inputs: object) -> None:
        raise CompilationError("at 7:4\nin a file")

    inputs = op.make_inputs(op.Case(32, 1, 8, (16,), (16,)), "local")
    functions = {"grid_sample": ms_deform_attn_reference, "deformops": refuse}
    measured, refused = op.measure(inputs, functions, 1, 1e9)
    assert measured["formulation"] == "grid_sample" and measured["forward_gain"] == 1
    assert refused == {"formulation": "deformops", "error": "CompilationError: at 7:4"}
    assert capsys.readouterr().out == "deformops does not run: CompilationError: at 7:4\n"
    with pytest.raises(CompilationError):
        list(op.measure(inputs, {**functions, "ours": refuse}, 1, 1e9))


def test_copies_are_more_than_a_cache_holds():
    inputs = op.make_inputs(op.Case(64, 2, 8, (16,), (16,)), "local")
    moved, _ = op.minimal_bytes(inputs)
    assert [len(op.copies(inputs, size)) for size in (0, moved, 3 * moved - 1)] == [1, 1, 3]
    first, second = op.copies(inputs, moved + 1)
    assert first is inputs
    for one, other in zip(first, second, strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [
        ("ours", [torch.float32, torch.float32]),
        ("mmcv", [torch.bfloat16, torch.bfloat16]),
        ("deformops, float32 sums", [torch.float32, torch.bfloat16]),
    ],
)
def test_kernels_get_the_dtypes_that_they_expect(name, dtypes):
    """They are cast before, not in the call that is timed."""
    seen = []

    def function(value, shapes, locations, weights):
        seen.append([locations.dtype, weights.dtype])
        return ms_deform_attn_reference(value, shapes, locations.float(), weights.float())

    inputs = op.make_inputs(op.Case(32, 1, 8, (16,), (16,)), "local")
    inputs = inputs.to(inputs.value.device, torch.bfloat16)
    functions = {"grid_sample": ms_deform_attn_reference, name: function}
    assert [record["formulation"] for record in op.measure(inputs, functions, 1, 1e9)][1] == name
    assert seen == [dtypes] * len(seen)


def test_local_points_stay_near_their_query():
    inputs = op.make_inputs(op.CASES["S 512 injector"], "local")
    assert inputs.value.shape == (1, 5376, 6, 64)
    assert inputs.sampling_locations.shape == (1, 1024, 6, 3, 4, 2)
    # Query 33 lies at row 1, column 1 of the 32 x 32 grid; the finest level has 64 pixels.
    centre = torch.tensor([1.5 / 32, 1.5 / 32])
    distance = (inputs.sampling_locations[0, 33, :, 0] - centre).abs().max() * 64
    assert distance < 4 + 5 * op.OFFSET_NOISE
    weights = inputs.attention_weights.sum((-1, -2))
    torch.testing.assert_close(weights, torch.ones_like(weights))
