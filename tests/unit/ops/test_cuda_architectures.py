"""The architectures that setup.py compiles for on a machine without a GPU."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest

NAMES = ("CUDA_ARCHITECTURES", "select_cuda_architectures")


def name_of(node: ast.stmt) -> str:
    """What a statement defines or assigns to."""
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0])
    return getattr(node, "name", "")


@pytest.fixture(scope="module")
def select(project_root) -> Callable[[str, str], str]:
    """The function of setup.py, which cannot be imported without running it."""
    tree = ast.parse((project_root / "setup.py").read_text(encoding="utf-8"))
    kept = [node for node in tree.body if name_of(node) in NAMES]
    namespace: dict = {}
    exec(compile(ast.Module(kept, []), "setup.py", "exec"), namespace)
    return namespace[NAMES[1]]


@pytest.mark.parametrize(
    ("compiler", "pytorch", "expected"),
    [
        # CUDA 13 no longer compiles for Volta.
        ((75, 80, 86, 90, 100, 110, 120), (75, 80, 86, 90, 100, 120), "7.5;8.0;9.0+PTX;10.0;12.0"),
        ((50, 70, 75, 80, 86, 89, 90), (50, 70, 75, 80, 86, 90), "7.0;7.5;8.0;9.0+PTX"),
        # The compiler knows more than PyTorch.
        ((70, 75, 80, 90, 100, 120), (70, 75, 80, 90), "7.0;7.5;8.0;9.0+PTX"),
        # PyTorch is for Jetson and others alone.
        ((75, 80, 86, 87, 90, 110), (110, 87, 86), "8.6;8.7;11.0"),
    ],
)
def test_architectures_are_those_of_the_compiler_and_pytorch(compiler, pytorch, expected, select):
    listed = "\n".join(f"compute_{number}" for number in compiler)
    assert select(listed, " ".join(f"sm_{number}" for number in pytorch)) == expected


def test_without_a_common_architecture_the_user_must_choose(select):
    with pytest.raises(RuntimeError, match="nvcc compiles for compute_80 compute_90:"):
        select("compute_80\ncompute_90\n", "sm_50")
