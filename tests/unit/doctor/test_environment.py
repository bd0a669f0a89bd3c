"""The environment check: missing, broken and old packages, and what is not reported."""

from __future__ import annotations

import sys
import types

import pytest

from vit_adapter.doctor import environment
from vit_adapter.doctor.section import Options, Section


def import_package(module: str, error: Exception, monkeypatch) -> Section:
    """The result for a package whose import raises an error."""

    def fail(name: str) -> types.ModuleType:
        raise error

    monkeypatch.setattr(environment.importlib, "import_module", fail)
    section = Section({"packages": {}})
    environment._check_package(module, section)
    return section


def test_here_everything_is_found(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@host/simple")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    section = environment.check(Options())
    assert section.findings == []
    assert section.facts["packages"].keys() == environment.PACKAGES.keys()
    assert sys.modules["torch"].__version__ in section.facts["packages"]["torch"]
    assert section.facts["variables"]["OMP_NUM_THREADS"] == "3"
    assert "secret" not in str(section)


@pytest.mark.parametrize(
    ("module", "error", "what", "fix"),
    [
        (
            "torch",
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "torch is not installed",
            "-m pip install torch torchvision 'setuptools>=77'",
        ),
        (
            "cv2",
            ModuleNotFoundError("No module named 'cv2'", name="cv2"),
            "opencv-python-headless is not installed",
            "-m pip install opencv-python-headless",
        ),
        (
            "cv2",
            ImportError("libGL.so.1: cannot open shared object file"),
            "cv2 cannot be imported: libGL.so.1",
            "pip uninstall -y opencv-python opencv-python-headless && ",
        ),
        (
            "torchvision",
            RuntimeError("operator torchvision::nms does not exist"),
            "this torchvision was made for another torch",
            "-m pip install --upgrade torch torchvision",
        ),
        (
            "timm",
            ModuleNotFoundError("No module named 'huggingface_hub'", name="huggingface_hub"),
            "timm cannot be imported: No module named 'huggingface_hub'",
            "-m pip install huggingface_hub",
        ),
        (
            "scipy",
            ImportError("/lib/libm.so.6: version `GLIBC_2.99' not found"),
            "scipy cannot be imported: /lib/libm.so.6",
            "-m pip install --force-reinstall --no-deps scipy",
        ),
    ],
)
def test_what_cannot_be_imported(module, error, what, fix, monkeypatch):
    (finding,) = import_package(module, error, monkeypatch).findings
    assert finding.kind == "fault"
    assert what in finding.what
    assert fix in finding.fix


def test_packages_that_only_miss_torch_are_no_faults_of_their_own(monkeypatch):
    error = ModuleNotFoundError("No module named 'torch'", name="torch")
    section = import_package("timm", error, monkeypatch)
    assert section.findings == []
    assert section.facts["packages"] == {"timm": "needs torch"}


def test_versions_outside_the_declared_ranges(monkeypatch):
    pytest.importorskip("packaging")
    declared = ["timm>=1.0.31", "numpy", "absent>=3", 'wandb>=9; extra == "wandb"']
    monkeypatch.setattr(environment.importlib.metadata, "requires", lambda name: declared)
    versions = {"timm": "0.9.2", "numpy": "1.26", "absent": "unknown version", "wandb": "1"}
    monkeypatch.setattr(environment, "_installed_version", versions.__getitem__)
    section = Section()
    environment._check_ranges(section)
    (finding,) = section.findings
    assert finding.what == "timm 0.9.2 is installed, but timm>=1.0.31 is needed."
    assert finding.fix.endswith("-m pip install 'timm>=1.0.31'")


def test_a_package_of_the_home_folder_hides_that_of_the_environment(monkeypatch, tmp_path):
    imported = types.SimpleNamespace(__version__="1.0", __file__=str(tmp_path / "tqdm/__init__.py"))
    monkeypatch.setattr(environment.importlib, "import_module", lambda name: imported)
    monkeypatch.setattr(environment.site, "getusersitepackages", lambda: str(tmp_path))
    section = Section({"packages": {}})
    for is_environment in (False, True):
        monkeypatch.setattr(environment, "_is_environment", lambda value=is_environment: value)
        environment._check_package("tqdm", section)
        assert len(section.findings) == is_environment
    assert "PYTHONNOUSERSITE=1" in section.findings[0].fix
