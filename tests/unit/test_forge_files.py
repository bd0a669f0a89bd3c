"""The files for a public forge: they are valid, and name things that exist."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FIELDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs(workflow: str) -> dict[str, dict]:
    return read(ROOT / ".github" / "workflows" / workflow)["jobs"]


def workflow_commands() -> list[str]:
    steps = [
        step for path in WORKFLOWS for job in jobs(path.name).values() for step in job["steps"]
    ]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    return [step["run"] for step in steps if "run" in step]


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")


def docker_commands() -> list[str]:
    return re.findall(r"^RUN (.+)$", dockerfile(), re.MULTILINE)


def test_the_workflow_tests_the_ends_of_the_declared_ranges():
    matrix = jobs("ci.yml")["install"]["strategy"]["matrix"]
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert matrix["torch"] == [f"{re.search(r'torch>=([0-9.]+)', setup)[1]}.*", "newest"]
    assert matrix["python"][0] == re.search(r'python_requires=">=([0-9.]+)"', setup)[1]
    assert set(matrix["compiler"]) == {"c++", "none"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    newest = matrix["python"][-1]
    assert f"PYTHON=python{newest}" in readme  # what the README names is tested


def test_the_workflow_runs_what_is_skipped_without_optional_packages():
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pinned = re.findall(r"^([\w-]+)==", requirements, re.MULTILINE)
    installed = {*pinned, *sys.stdlib_module_names, "packaging"}
    skipping = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        needed = re.findall(r'importorskip\("(\w+)', path.read_text(encoding="utf-8"))
        if not installed.issuperset(needed):
            skipping.add(path.relative_to(ROOT).as_posix())
    (command,) = (command for command in workflow_commands() if "pytest -rs" in command)
    assert {word for word in command.split() if word.endswith(".py")} == skipping


def test_wheels_are_built_for_what_is_tested():
    tested = jobs("ci.yml")["install"]["strategy"]["matrix"]
    built = jobs("wheels.yml")["wheel"]["strategy"]["matrix"]
    assert built["python"] == [f"cp{version.replace('.', '')}" for version in tested["python"]]
    assert tested["torch"][0] == f"{built['torch'][0]}.*"


@pytest.mark.parametrize("command", [*workflow_commands(), *docker_commands()])
def test_commands_exist(command):
    """Targets of make, and programs, tests and modules of the project."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(STAMPS)", ".venv/.stamps")
    words = shlex.split(re.sub(r"\$\{\{.*?\}\}", "VALUE", command))
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert targets
        for target in targets:
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    for word in words:
        if word.endswith(".py") and "=" not in word:
            assert (ROOT / word).is_file(), word
    if "vit_adapter.doctor" in words:
        assert (ROOT / "projects/ViTAdapter/vit_adapter/doctor/__main__.py").is_file()


def test_the_image_copies_files_that_exist():
    stages = re.findall(r"^COPY (.+)$", dockerfile(), re.MULTILINE)
    for sources in (stage.split()[:-1] for stage in stages):
        assert all((ROOT / source).exists() for source in sources), sources
    assert (ROOT / "Dockerfile").read_text().count("ARG BASE=") == 1


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path):
    form = read(path)
    if path.stem == "config":
        assert form.keys() <= {"blank_issues_enabled", "contact_links"}
        return
    assert (
        {"name", "description", "body"} <= form.keys() <= {"name", "description", "body", "labels"}
    )
    for field in form["body"]:
        assert field["type"] in FIELDS
        needed = "value" if field["type"] == "markdown" else "label"
        assert field["attributes"][needed]
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids))


def test_bugs_come_with_the_output_of_the_doctor():
    fields = {field.get("id"): field for field in read(FORMS[0])["body"]}
    assert FORMS[0].stem == "bug"
    assert "python -m vit_adapter.doctor --json" in fields["doctor"]["attributes"]["description"]
    assert fields["doctor"]["validations"] == {"required": True}
