"""tools/check_op.py: accepts the operator, and finds wrong results of every kind."""

import pytest
import torch
from tool_files import load_tool

from vit_adapter.ops import ms_deform_attn


@pytest.fixture
def tool(monkeypatch):
    tool = load_tool("check_op")
    monkeypatch.setattr(tool, "CASES", (tool.CASES[4], tool.CASES[8]))
    monkeypatch.setattr(tool, "has_kernel", lambda device: True)
    yield tool
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_the_operator_passes(tool, capsys):
    assert tool.main([]) == 0
    assert "8 settings, 0 wrong results" in capsys.readouterr().out
    assert not torch.are_deterministic_algorithms_enabled()


class WrongGradient(torch.autograd.Function):
    """The identity, with a gradient that is too large by a thousandth."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient):
        return 1.001 * gradient


@pytest.mark.parametrize("argument", [0, 2, 3])
def test_a_wrong_gradient_is_found(argument, tool, monkeypatch, capsys):
    def wrong(*arguments):
        arguments = list(arguments)
        arguments[argument] = WrongGradient.apply(arguments[argument])
        return ms_deform_attn(*arguments)

    monkeypatch.setattr(tool, "ms_deform_attn", wrong)
    assert tool.main(["--dtypes", "float32"]) == 1
    name = {0: "value", 2: "locations", 3: "weights"}[argument]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 settings, 4 wrong results"  # usual and deterministic
    assert all(f"gradient of {name} is off by 1.0e-03" in line for line in lines[:-1])


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_a_wrong_result_of_deterministic_algorithms_is_found(factor, tool, monkeypatch, capsys):
    def wrong(*arguments):
        deterministic = torch.are_deterministic_algorithms_enabled()
        return ms_deform_attn(*arguments) * (factor if deterministic else 1.0)

    monkeypatch.setattr(tool, "ms_deform_attn", wrong)
    assert tool.main(["--dtypes", "float64"]) == 1
    output = capsys.readouterr().out
    assert "deterministic: output is off" in output and "usual" not in output


def test_a_device_without_kernels_is_an_error(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool, "has_kernel", lambda device: device != "cuda")
    assert tool.main(["--device", "cuda:0"]) == 1
    assert "no kernel for cuda:0" in capsys.readouterr().out


def test_bad_points_are_among_the_inputs(tool):
    locations = tool.make_call(tool.CASES[0], torch.float32).locations
    assert locations.isnan().any() and locations.isinf().any()
    assert ((locations > 0) & (locations < 1)).float().mean() > 0.4
