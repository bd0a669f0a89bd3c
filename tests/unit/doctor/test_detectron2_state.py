"""The Detectron2 check: missing, unpatched, outdated, broken."""

from __future__ import annotations

from importlib.machinery import ModuleSpec

import pytest

from vit_adapter.doctor import detectron2_state as state
from vit_adapter.doctor.section import Finding, Options, Section

INSTALL = " -m vit_adapter.install_detectron2"


def fake_installation(monkeypatch, folder, version: str) -> None:
    """Make the check find a Detectron2 in a folder."""
    folder.mkdir(exist_ok=True)
    spec = ModuleSpec("detectron2", None, origin=str(folder / "__init__.py"))
    monkeypatch.setattr(state.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(state, "_version", lambda: version)


def the_finding(section: Section) -> Finding:
    (finding,) = section.findings
    return finding


def test_this_installation_works():
    section = state.check(Options())
    assert not [f for f in section.findings if f.kind == "fault"]
    assert section.facts["vit_adapter on detectron2"] == "can be imported"


@pytest.mark.parametrize("folder", [None, "/clone/detectron2"])
def test_missing(folder, monkeypatch):
    spec = None
    if folder is not None:  # a clone in the working directory, which is not installed
        spec = ModuleSpec("detectron2", None, is_package=True)
        spec.submodule_search_locations.append(folder)
    monkeypatch.setattr(state.importlib.util, "find_spec", lambda name: spec)
    finding = the_finding(state.check(Options()))
    assert finding.kind == "fault"
    assert finding.what.startswith("Detectron2 is not installed.")
    assert (folder is not None) == ("/clone/detectron2 is a folder without" in finding.what)
    assert INSTALL in finding.fix


def test_unpatched(monkeypatch, tmp_path):
    fake_installation(monkeypatch, tmp_path / "detectron2", "0.6")
    (tmp_path / "detectron2" / "masks.py").write_text("import numpy as np\nx = np.bool\n")
    (tmp_path / "detectron2" / "fine.py").write_text("x = np.bool_\n")
    section = state.check(Options())
    finding = the_finding(section)
    assert finding.kind == "fault"
    assert "Detectron2 0.6 is not patched: 1 files use names" in finding.what
    assert "masks.py: np.bool" in finding.what
    assert "pip uninstall -y detectron2 && " in finding.fix and INSTALL in finding.fix


def test_older_patches(monkeypatch, tmp_path):
    fake_installation(monkeypatch, tmp_path, "0.6+patches.00000000")
    section = Section()
    assert state._check_patches("0.6+patches.00000000", tmp_path, section)
    finding = the_finding(section)
    assert finding.kind == "warning" and "has older patches" in finding.what
    assert INSTALL in finding.fix


def test_a_compiled_part_for_another_torch(monkeypatch, tmp_path):
    fake_installation(monkeypatch, tmp_path, "0.7")

    def fail(name: str) -> None:
        raise ImportError("_C.so: undefined symbol: _ZN2at")

    monkeypatch.setattr(state.importlib, "import_module", fail)
    monkeypatch.setattr(state, "can_import_torch", lambda: True)
    finding = the_finding(state.check(Options()))
    assert finding.kind == "fault"
    assert "detectron2.config cannot be imported: _C.so: undefined symbol" in finding.what
    assert "built for another PyTorch" in finding.what
    assert "pip uninstall -y detectron2 && " in finding.fix
    assert "Traceback" in finding.traceback


def test_a_dependency_that_is_missing(monkeypatch):
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'yacs'", name="yacs")

    monkeypatch.setattr(state.importlib, "import_module", fail)
    section = Section()
    assert not state._imports(["detectron2.config"], "reinstall it", section)
    assert the_finding(section).fix.endswith("-m pip install yacs")
