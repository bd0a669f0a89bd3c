"""All kernels under AddressSanitizer and UBSan: random cases, and offsets past 2^32.

tools/fuzz_op.py compiles the unmodified sources and can run them for longer and with every
instruction set; here only the widest one runs, with the same few cases on every machine.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import types
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NUM_CASES = 24


@pytest.fixture(scope="module")
def tool(project_root) -> types.ModuleType:
    path = project_root / "projects" / "ViTAdapter" / "tools" / "fuzz_op.py"
    spec = importlib.util.spec_from_file_location("fuzz_op", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def program(tool, tmp_path_factory, sanitizing_compiler) -> Path:
    """The compiled harness."""
    return tool.build(tmp_path_factory.mktemp("fuzzing"), tool.available_sets()[-1:])


def test_random_cases_find_no_error(program):
    """One case per seed, so that their number does not depend on the machine's speed."""
    for seed in range(1, NUM_CASES + 1):
        command = [program, "fuzz", "0", str(seed)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        assert process.stdout.startswith("1 cases, no finding"), process.stdout


def test_offsets_past_32_bits(program):
    """Value, output and locations of 2^32 elements each: reserved, but hardly ever touched."""
    process = subprocess.run([program, "large"], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_a_missing_instruction_set_is_named(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool, "available_sets", lambda: ["baseline"])
    with pytest.raises(SystemExit):
        tool.main(["0", "--sets", "avx512"])
    assert "this machine has no avx512" in capsys.readouterr().err


def test_a_missing_compiler_is_named(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(tool.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler"):
        tool.build(tmp_path, ["baseline"])


def test_instruction_sets_have_the_flags_of_the_build(tool, project_root):
    name = "INSTRUCTION_SET_FLAGS"
    tree = ast.parse((project_root / "setup.py").read_text(encoding="utf-8"))
    (flags,) = (
        ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    expected = {f"_{name}.cpp": given for name, given in tool.INSTRUCTION_SETS.items() if given}
    assert eval(flags) == expected
