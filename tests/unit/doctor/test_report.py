"""The report as text and JSON, and the exit status."""

from __future__ import annotations

import json

import pytest

from vit_adapter.doctor import cli
from vit_adapter.doctor.report import conclusion
from vit_adapter.doctor.section import Section


def sections(*kinds: str) -> dict[str, Section]:
    section = Section({"built": False, "cuda": "", "gpus": ["A", "B"], "ms": {"cpu": 1.5}})
    for kind in kinds:
        section.fault("It broke.", "repair\nor replace", "Traceback") if kind == "fault" else (
            section.warn("It creaks.", "oil it")
        )
    return {"build": section}


@pytest.mark.parametrize(
    ("kinds", "status", "ending"),
    [
        ((), 0, "Everything works."),
        (("warning",), 0, "1 warning found; the fixes are above. Everything works, but not as"),
        (("fault", "warning", "fault"), 1, "2 faults and 1 warning found; the fixes are above."),
    ],
)
def test_exit_status(kinds, status, ending, monkeypatch, capsys):
    found = sections(*kinds)
    monkeypatch.setattr(cli, "run_checks", lambda names, options: iter(found.items()))
    assert cli.main([]) == status
    output = capsys.readouterr().out
    assert conclusion(found) in output and conclusion(found).startswith(ending)
    assert cli.main(["--json"]) == status
    content = json.loads(capsys.readouterr().out)
    assert content["fine"] == (status == 0)
    assert len(content["build"]["findings"]) == len(kinds)


def test_text(monkeypatch, capsys):
    found = sections("fault", "warning")
    monkeypatch.setattr(cli, "run_checks", lambda names, options: iter(found.items()))
    cli.main([])
    assert capsys.readouterr().out.startswith(
        "Extension\n"
        "  built  no\n"
        "  cuda   none\n"
        "  gpus   A, B\n"
        "  ms\n"
        "    cpu  1.5\n"
        "  FAULT: It broke.\n"
        "  Fix: repair\n"
        "       or replace\n"
        "  WARNING: It creaks.\n"
        "  Fix: oil it\n"
    )


@pytest.mark.parametrize("quick", [False, True])
def test_options(quick, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(cli, "run_checks", lambda *given: asked.append(given) or iter(()))
    cli.main(["--output", "there", *(["--quick"] if quick else [])])
    ((names, options),) = asked
    assert options.output == "there"
    assert ("speed" in names) != quick
    assert {"environment", "build", "detectron2"} < set(names)
