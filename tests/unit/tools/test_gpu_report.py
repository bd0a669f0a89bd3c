"""tools/gpu_report.sh with stand-ins for the programs: its steps, limits and statuses."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

OPERATOR = ("gpu", "toolkit", "packages", "build", "kernels", "ceilings", "tests", "benchmark_op")
SANITIZERS = ("memcheck", "initcheck", "synccheck")
COMPILE = """printf '#!/bin/bash\necho "{}"' > "${@: -1}"; chmod +x "${@: -1}" """  # a program
MODELS = ("inference", "training_small", "training_large", "compiled")
PROFILE = 'printf \'"ID"\\n""\\n"0"\\n\''  # a kernel


class Machine:
    """Programs that note their calls; ``actions`` are lines of bash for calls with some text."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.actions: dict[str, str] = {}
        self.timeout = ""  # seconds instead of every step's limit

    def run(
        self, *arguments: str, **variables: str
    ) -> tuple[subprocess.CompletedProcess, dict[str, dict], str]:
        """Run the script; return the process, the steps of the report and all calls."""
        programs = self.folder / "programs"
        programs.mkdir()
        actions = {"nvcc -O3": COMPILE, "ncu --clock-control": PROFILE} | self.actions
        cases = "".join(f'*"{text}"*) {line} ;;\n' for text, line in actions.items())
        for name in ("nvidia-smi", "nvcc", "compute-sanitizer", "ncu", "python3"):
            stub = f'#!/bin/bash\necho "{name} $*" >> "{self.folder}/calls"\n'
            if name == "python3":  # the summary is the real one
                stub += f'[[ $1 == *gpu_summary.py ]] && exec "{sys.executable}" "$@"\n'
            stub += f'case "{name} $*" in\n{cases}esac\nexit 0\n'
            (programs / name).write_text(stub)
        if self.timeout:  # the script calls `timeout --kill-after 5 LIMIT PROGRAM...`
            line = f'exec /usr/bin/timeout --kill-after 5 {self.timeout} "${{@:4}}"\n'
            (programs / "timeout").write_text("#!/bin/bash\n" + line)
        for program in programs.iterdir():
            program.chmod(0o755)
        process = subprocess.run(
            ["bash", self.root / "projects/ViTAdapter/tools/gpu_report.sh", *arguments],
            env={
                "PATH": f"{programs}:/usr/bin:/bin",
                "OUTPUT": str(self.folder / "out"),
                **variables,
            },
            capture_output=True,
            text=True,
        )
        file = self.folder / "out" / "report.json"
        steps = json.loads(file.read_text())["steps"] if file.is_file() else []
        calls = (self.folder / "calls").read_text() if steps else ""
        return process, {step["name"]: step for step in steps}, calls


@pytest.fixture
def machine(project_root, tmp_path):
    return Machine(project_root, tmp_path)


def test_operator_runs_every_step(machine, tmp_path):
    machine.actions = {"python3 -m pytest": f'echo "$PYTHONPATH" > "{tmp_path}/path"'}
    process, steps, calls = machine.run("operator", "wheels")
    assert process.returncode == 0, process.stdout
    assert set(steps) == {*OPERATOR, *SANITIZERS, "profile"}
    assert all(step["status"] == "passed" for step in steps.values())
    for call in (
        "python3 -m pip install --no-index --no-deps",
        "python3 setup.py build_ext --inplace",
        "python3 -m pytest -q -p no:cacheprovider -n 4 -m cuda -rfEs",
        "benchmark_op.py --device cuda",
        "--tool initcheck --error-exitcode 1 python3 projects/ViTAdapter/tools/check_op.py",
        "ncu --clock-control none",
    ):
        assert call in calls
    site, package, *_ = (tmp_path / "path").read_text().strip().split(os.pathsep)
    assert site == str(tmp_path / "out" / "site")
    assert package == str(machine.root / "projects" / "ViTAdapter")


def is_for_cuda(function: ast.FunctionDef) -> bool:
    """Whether a test or fixture is marked cuda, or may use the fixture of all devices."""
    arguments = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    decorators = " ".join(map(ast.unparse, function.decorator_list))
    is_used = function.name.startswith("test_") or "fixture" in decorators
    return is_used and ("mark.cuda" in decorators or bool(arguments & {"device", "kernel_device"}))


def test_every_file_with_tests_for_cuda_is_run(machine):
    _, _, calls = machine.run("operator")
    expected = set()
    for path in (machine.root / "tests").rglob("test_*.py"):
        text = path.read_text()
        if "device" in text or "mark.cuda" in text:
            functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef))
            if any(map(is_for_cuda, functions)):
                expected.add(str(path.relative_to(machine.root)))
    assert "tests/unit/test_time/test_graphs.py" in expected
    (call,) = (line for line in calls.splitlines() if "-m cuda" in line)
    assert not expected - set(call.split())


def test_models_measure_inference_and_training(machine):
    process, steps, calls = machine.run("models")
    assert process.returncode == 0, process.stdout
    assert set(steps) == {"packages", "kernels", *MODELS}  # there are kernels: no build
    assert steps["packages"]["status"] == "skipped"
    assert "setup.py" not in calls
    variants = "bf16 bf16,graph bf16-weights bf16-weights,graph"
    for option in (variants, "bf16-weights,compiled"):
        assert f"--variants {option}" in calls
    assert "--train" in calls


def test_a_failing_step_does_not_stop_the_others(machine):
    machine.actions = {"-m pytest": "echo broken; exit 1"}
    process, steps, _ = machine.run("operator")
    assert process.returncode == 1
    assert steps["tests"]["status"] == "failed" and steps["tests"]["output"] == ["broken"]
    assert steps["profile"]["status"] == "passed"


def test_without_kernels_nothing_is_measured(machine, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("inference.json", "compiled.txt"):  # of an earlier run
        (tmp_path / "out" / name).write_text("{}")
    machine.actions = {"raise SystemExit": "exit 1"}
    process, steps, calls = machine.run("models")
    assert process.returncode == 1
    assert steps["build"]["status"] == "passed" and steps["kernels"]["status"] == "failed"
    assert all(steps[name]["note"] == "the step kernels did not pass" for name in MODELS)
    assert "benchmark.py" not in calls
    assert not {"inference.json", "compiled.txt"} & set(os.listdir(tmp_path / "out"))


def test_tools_that_do_not_work_are_skipped_with_the_reason(machine):
    machine.actions = {
        "--tool memcheck": 'echo "== Error: Device not supported."; exit 1',
        "ncu --clock-control": r'printf "ncu:\tnot found\r"; exit 127',
    }
    process, steps, _ = machine.run("operator")
    assert process.returncode == 0, process.stdout
    assert steps["memcheck"]["status"] == steps["profile"]["status"] == "skipped"
    assert steps["memcheck"]["note"] == "== Error: Device not supported."
    assert steps["profile"]["note"] == "ncu: not found "
    assert steps["synccheck"]["status"] == "passed"


def test_only_tools_of_nvidia_may_refuse(machine):
    machine.actions = {"-m pytest": 'echo "Device not supported"; exit 1'}
    process, steps, _ = machine.run("operator")
    assert process.returncode == 1 and steps["tests"]["status"] == "failed"


def test_a_profile_without_kernels_fails(machine):
    machine.actions = {"ncu --clock-control": "echo No kernels were profiled."}
    process, steps, _ = machine.run("operator")
    assert process.returncode == 1
    assert steps["profile"]["status"] == "failed"
    assert steps["profile"]["note"] == "no kernel was profiled, see profile.txt"


def test_steps_without_time_have_timed_out(machine):
    process, steps, _ = machine.run("models", LIMIT="4")
    assert process.returncode == 1
    assert steps["kernels"]["status"] == "timed out"
    assert steps["kernels"]["note"] == "no time is left"
    assert all(steps[name]["note"] == "the step kernels did not pass" for name in MODELS)


@pytest.mark.parametrize("limit", ["4m", "0", "soon"])
def test_a_limit_is_a_number_of_seconds(limit, machine):
    process, _, _ = machine.run("models", LIMIT=limit)
    assert process.returncode == 2
    assert f"a number of seconds, such as 240, got '{limit}'" in process.stderr


def test_operator_begins_a_new_report(machine, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("inference.json", "inference.txt", "ceilings.json", "notes.txt"):
        (tmp_path / "out" / name).write_text("{}")
    (tmp_path / "out" / "steps_models.tsv").write_text("inference\tpassed\t1\t\n")
    process, steps, _ = machine.run("operator")
    assert process.returncode == 0 and "inference" not in steps
    left = set(os.listdir(tmp_path / "out"))
    assert "notes.txt" in left and not {"inference.json", "inference.txt"} & left


def test_a_step_beyond_its_limit_is_stopped(machine):
    machine.actions = {"--train --sizes 512": "sleep 20"}
    machine.timeout = "0.3"
    process, steps, _ = machine.run("models")
    assert process.returncode == 1
    assert steps["training_small"]["status"] == "timed out"
    assert steps["training_large"]["status"] == "passed"


@pytest.mark.parametrize("arguments", [(), ("all",)])
def test_the_command_is_checked(arguments, machine):
    process, _, _ = machine.run(*arguments)
    assert process.returncode == 2
    assert "expected operator or models" in process.stderr
