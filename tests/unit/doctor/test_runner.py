"""The process of the checks: a crash, a hang or an exception is a finding, and the rest runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vit_adapter.doctor import checks, runner
from vit_adapter.doctor.checks import CHECKS, Check, run_check
from vit_adapter.doctor.section import Options, Section

WORKER = """
import sys
sys.path.insert(0, {folder!r})
from vit_adapter.doctor.checks import CHECKS, Check
for name in ("fine", "crash", "hang", "leave"):
    CHECKS[name] = Check(name, "made_up_" + name, needs_torch=False)
from vit_adapter.doctor.worker import main
main(sys.argv[1:])
"""
MODULES = {
    "fine": "print('noise')\nreturn Section({'output': options.output})",
    "crash": "import ctypes\nctypes.string_at(0)",
    "hang": "import time\ntime.sleep(60)",
    "leave": "import os\nprint('the last words', flush=True)\nos._exit(3)",
}


@pytest.fixture
def made_up_checks(monkeypatch, tmp_path: Path) -> None:
    """Four checks in place of the real ones, also in the process that runs them."""
    for name, body in MODULES.items():
        text = "from vit_adapter.doctor.section import Section\ndef check(options):\n"
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        (tmp_path / f"made_up_{name}.py").write_text(text + lines)
        limit = 3.0 if name == "hang" else 60.0
        monkeypatch.setitem(CHECKS, name, Check(name, f"made_up_{name}", limit, uses_kernels=True))
    (tmp_path / "worker.py").write_text(WORKER.format(folder=str(tmp_path)))
    monkeypatch.setattr(runner, "_WORKER", [sys.executable, str(tmp_path / "worker.py")])


def test_what_happens_in_a_check_ends_nothing_else(made_up_checks):
    names = ["crash", "fine", "hang", "leave", "fine"]
    results = list(runner.run_checks(names, Options(output="there")))
    assert [name for name, _ in results] == names
    crash, fine, hang, leave, last = (section for _, section in results)
    assert fine == last == Section({"output": "there"})
    assert crash.findings[0].what.startswith("The check ended its process (SIGSEGV). The ext")
    assert "made_up_crash.py" in crash.findings[0].traceback
    assert "--no-build-isolation -e ." in crash.findings[0].fix
    assert hang.findings[0].what.startswith("The check did not end within 3 seconds.")
    assert "ended its process (exit status 3)." in leave.findings[0].what
    assert "the last words" in leave.findings[0].traceback
    assert {s.findings[0].kind for s in (crash, hang, leave)} == {"fault"}


def test_an_exception_is_a_fault_with_its_traceback(monkeypatch):
    monkeypatch.setitem(CHECKS, "wrong", Check("Wrong", "vit_adapter.doctor.nothing"))
    (finding,) = run_check("wrong", Options()).findings
    assert finding.kind == "fault"
    assert "The check raised ModuleNotFoundError: No module named" in finding.what
    assert "Traceback" in finding.traceback
    assert "vit_adapter.doctor --json" in finding.fix


def test_without_torch_its_checks_are_left_out(monkeypatch):
    monkeypatch.setattr(checks, "can_import_torch", lambda: False)
    for name in ("build", "devices", "self_test", "speed"):
        section = run_check(name, Options())
        assert section.findings == []
        assert section.facts == {"left out": "PyTorch cannot be imported"}
