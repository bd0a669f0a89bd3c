"""tools/gpu_bundle.sh: what it asks pip for, and its limit of size."""

import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def bundle(project_root, tmp_path):
    """Run the tool with stand-ins for Python and Git; return its process and their calls."""
    programs = tmp_path / "programs"
    programs.mkdir()

    def run(action: str = "") -> tuple[subprocess.CompletedProcess, list[str]]:
        for name in ("python3", "git"):
            stub = f'#!/bin/bash\necho "$*" >> "{tmp_path}/calls"\n'
            stub += f'mkdir -p "{tmp_path}/out/wheels"\n{action}\n'
            (programs / name).write_text(stub)
            (programs / name).chmod(0o755)
        script = Path("projects", "ViTAdapter", "tools", "gpu_bundle.sh")
        process = subprocess.run(
            ["bash", project_root / script, tmp_path / "out"],
            env={"PATH": f"{programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        return process, (tmp_path / "calls").read_text().splitlines()

    return run


def test_wheels_have_the_versions_of_the_requirements(bundle, project_root):
    process, calls = bundle()
    assert process.returncode == 0, process.stderr
    requirements = (project_root / "requirements.txt").read_text().splitlines()
    for name in ("pycocotools", "timm", "omegaconf", "hydra-core"):
        (pinned,) = [line for line in requirements if line.startswith(f"{name}==")]
        (call,) = [call for call in calls if call.endswith(f" {pinned}")]
        assert "--python-version 3.12" in call and "--only-binary :all:" in call
    (source,) = [call for call in calls if " fvcore==" in call]
    assert "wheel --no-deps" in source
    assert any("install_detectron2.py --wheel-dir" in call for call in calls)
    assert calls[-1].startswith("archive ") and calls[-1].endswith("project.tar.gz HEAD")


def test_a_bundle_that_is_too_large_is_refused(bundle, tmp_path):
    process, _ = bundle(f'head -c 64M /dev/zero > "{tmp_path}/out/wheels/large.whl"')
    assert process.returncode == 1
    assert "expected at most 60" in process.stderr


def test_a_package_that_cannot_be_had_ends_it(bundle):
    process, calls = bundle("exit 3")
    assert process.returncode == 3
    assert len(calls) == 1
