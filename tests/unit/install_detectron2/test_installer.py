"""``python -m vit_adapter.install_detectron2``: what it refuses and what it builds.

No network: archives are made here, and pip runs with ``--no-index``.
"""

from __future__ import annotations

import importlib.metadata
import io
import tarfile
import zipfile
from pathlib import Path

import detectron2
import pytest

from vit_adapter.install_detectron2 import installer as tool
from vit_adapter.install_detectron2.patches import ADDED_FILES, PATCHES, Patch

INSTALLED = Path(detectron2.__file__).parent
IS_PATCHED = importlib.metadata.version("detectron2").startswith(tool.VERSION_PREFIXES)


def make_tree(root: Path) -> Path:
    """Writes a small source tree that has the text of every patch as often as the patch expects."""
    package = root / "detectron2"
    for patch in PATCHES:
        path = package / patch.file
        path.parent.mkdir(parents=True, exist_ok=True)
        known = path.read_text() if path.exists() else ""
        missing = patch.count - known.count(patch.old)
        path.write_text(known + f"{patch.old}\n" * missing)
    for folder in {path.parent for path in package.rglob("*.py")} | {package}:
        (folder / "__init__.py").touch()
    (package / "layers" / "csrc").mkdir()
    (package / "layers" / "csrc" / "vision.cpp").write_text("int main() {}")
    (root / "configs").mkdir()
    (root / "configs" / "base.yaml").write_text("VERSION: 2\n")
    (root / "projects" / "PointRend" / "point_rend").mkdir(parents=True)
    (root / "projects" / "PointRend" / "point_rend" / "__init__.py").touch()
    (root / "LICENSE").write_text("the licence\n")
    return root


def make_archive(
    path: Path, members: dict[str, bytes], links: dict[str, str] | None = None
) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.SYMTYPE
            member.linkname = target
            tar.addfile(member)
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- patches


def test_patches_replace_text_and_state_the_change(tmp_path: Path) -> None:
    package = make_tree(tmp_path) / "detectron2"
    tool.apply_patches(package)
    for patch in PATCHES:
        text = (package / patch.file).read_text()
        assert text.startswith(tool.CHANGE_NOTICE), patch.file
        assert patch.new in text, patch
    assert "np.bool)" not in (package / "structures" / "masks.py").read_text()
    assert (package / "utils" / "missing_extension.py").is_file()


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.file)
def test_a_patch_whose_text_is_missing_stops_everything(tmp_path: Path, patch: Patch) -> None:
    package = make_tree(tmp_path) / "detectron2"
    path = package / patch.file
    path.write_text(path.read_text().replace(patch.old, "altered\n"))
    before = snapshot(package)
    with pytest.raises(tool.InstallError, match=f"cannot patch detectron2/{patch.file}"):
        tool.apply_patches(package)
    assert snapshot(package) == before


def test_a_patch_whose_text_occurs_too_often_stops_everything(tmp_path: Path) -> None:
    package = make_tree(tmp_path) / "detectron2"
    path = package / "data" / "build.py"
    path.write_text(path.read_text() * 2)
    with pytest.raises(tool.InstallError, match="2 times, not 1"):
        tool.apply_patches(package)


@pytest.mark.parametrize(
    "line",
    ["x = y.astype(np.bool)", "    dtype=np.int", "z = np.float(3)", "isinstance(a, np.object)"],
)
def test_a_removed_name_without_a_patch_stops_everything(tmp_path: Path, line: str) -> None:
    package = make_tree(tmp_path) / "detectron2"
    (package / "structures" / "boxes.py").write_text(f"import numpy as np\n{line}\n")
    before = snapshot(package)
    with pytest.raises(tool.InstallError, match="detectron2/structures/boxes.py:2: ") as caught:
        tool.apply_patches(package)
    assert line.strip() in str(caught.value)
    assert snapshot(package) == before


@pytest.mark.parametrize("name", ["np.bool_", "np.int64", "np.floating", "np.integer", "xnp.int"])
def test_names_that_numpy_still_has_are_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / "masks.py").write_text(f"x = {name}\n")
    tool.check_numpy_names(tmp_path, {})


def test_missing_file_and_file_in_the_way_are_named(tmp_path: Path) -> None:
    package = make_tree(tmp_path) / "detectron2"
    with pytest.raises(tool.InstallError, match="nowhere.py: it is not in this source"):
        tool.apply_patches(package, [Patch("nowhere.py", "a", "b", "test")], {})
    (package / "utils" / "missing_extension.py").write_text("already here")
    with pytest.raises(tool.InstallError, match="missing_extension.py is in this source"):
        tool.apply_patches(package)


def test_version_follows_the_patches() -> None:
    other = (*PATCHES, Patch("a.py", "old", "new", "test"))
    assert tool.patched_version() == tool.patched_version(PATCHES, ADDED_FILES)
    assert tool.patched_version(other) != tool.patched_version()


# ---- archives


def test_wrong_hash_is_refused_and_nothing_runs(tmp_path, monkeypatch, capsys) -> None:
    archive = make_archive(tmp_path / "x.tar.gz", {"x/detectron2/__init__.py": b""})
    monkeypatch.setattr(tool, "find_installed", lambda: None)
    monkeypatch.setattr(tool, "run_pip", lambda *_: pytest.fail("pip must not run"))
    assert tool.main(["--archive", str(archive)]) == 1
    message = capsys.readouterr().err
    assert tool.ARCHIVE_SHA256 in message and "Nothing was installed" in message


def test_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(tool.InstallError, match="none.tar.gz is not a file"):
        tool.verify_archive(tmp_path / "none.tar.gz")


def test_extract_leaves_links_out(tmp_path: Path) -> None:
    archive = make_archive(
        tmp_path / "x.tar.gz", {"x/detectron2/__init__.py": b""}, {"x/detectron2/link": "/etc"}
    )
    tree = tool.extract_archive(archive, tmp_path / "out")
    assert [path.name for path in (tree / "detectron2").iterdir()] == ["__init__.py"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x/detectron2/__init__.py": b"", "../evil.py": b""}, "cannot be unpacked"),
        ({"x/other/__init__.py": b""}, "contains 0 detectron2 packages"),
    ],
)
def test_extract_refuses(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    archive = make_archive(tmp_path / "x.tar.gz", members)
    with pytest.raises(tool.InstallError, match=message):
        tool.extract_archive(archive, tmp_path / "out")
    assert not (tmp_path / "evil.py").exists()


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = make_archive(
        tmp_path / "x.tar.gz", {"x/detectron2/__init__.py": bytes(range(256)) * 99}
    )
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(tool.InstallError, match="cannot be unpacked"):
        tool.extract_archive(archive, tmp_path / "out")


def test_download_is_hash_checked_by_pip_and_failure_says_what_to_do(tmp_path, monkeypatch) -> None:
    calls: list[tuple[str, ...]] = []

    def refuse(*arguments: str) -> None:
        calls.append(arguments)
        raise tool.InstallError("`pip download` failed; see its output above.")

    monkeypatch.setattr(tool, "run_pip", refuse)
    with pytest.raises(tool.InstallError, match=r"its own repository .* --archive"):
        tool.download_archive(tmp_path)
    assert {"download", "--no-deps", "--no-build-isolation"} < set(calls[0])
    assert f"--hash=sha256:{tool.ARCHIVE_SHA256}" in (tmp_path / "requirement.txt").read_text()


# ---- the wheel and the installation


@pytest.mark.slow
def test_wheel_holds_the_python_part_with_metadata(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    before = snapshot(tree)
    wheel = tool.build_wheel(tree, tmp_path)
    assert snapshot(tree) == before
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        (metadata_name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = content.read(metadata_name).decode()
    assert "detectron2/model_zoo/configs/base.yaml" in names
    assert "detectron2/projects/point_rend/__init__.py" in names
    assert "detectron2/utils/missing_extension.py" in names
    assert any(name.endswith("LICENSE") for name in names)
    assert not any("csrc" in name for name in names)
    assert f"Version: {tool.patched_version()}" in metadata
    assert "Name: detectron2\n" in metadata and "Requires-Dist: fvcore" in metadata


def test_failing_patch_leaves_the_interpreter_alone(tmp_path, monkeypatch, capsys) -> None:
    tree = make_tree(tmp_path / "tree")
    (tree / "detectron2" / "data" / "build.py").write_text("something else\n")
    members = {
        f"x/{path.relative_to(tree)}": path.read_bytes()
        for path in tree.rglob("*")
        if path.is_file()
    }
    archive = make_archive(tmp_path / "x.tar.gz", members)
    monkeypatch.setattr(tool, "find_installed", lambda: None)
    monkeypatch.setattr(tool, "verify_archive", lambda path: None)
    monkeypatch.setattr(tool, "run_pip", lambda *_: pytest.fail("pip must not run"))
    assert tool.main(["--archive", str(archive)]) == 1
    assert "data/build.py" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["65.5.0", None])
def test_a_setuptools_that_cannot_build_is_named(monkeypatch, capsys, version: str | None) -> None:
    def look_up(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(tool, "find_installed", lambda: None)
    monkeypatch.setattr(tool, "run_pip", lambda *_: pytest.fail("pip must not run"))
    monkeypatch.setattr("importlib.metadata.version", look_up)
    assert tool.main([]) == 1
    error = capsys.readouterr().err
    assert f"found {version or 'none'}" in error and "pip install 'setuptools>=77'" in error


def test_the_oldest_setuptools_matches_pyproject(project_root: Path) -> None:
    text = (project_root / "pyproject.toml").read_text()
    assert f'requires = ["setuptools>={tool.OLDEST_SETUPTOOLS}"]' in text


def test_an_installed_detectron2_is_kept(monkeypatch, capsys) -> None:
    monkeypatch.setattr(tool, "find_installed", lambda: ("0.6", "/somewhere/detectron2"))
    monkeypatch.setattr(tool, "run_pip", lambda *_: pytest.fail("pip must not run"))
    assert tool.main([]) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("prefix", tool.VERSION_PREFIXES)
def test_older_patches_are_renewed(monkeypatch, tmp_path, prefix: str) -> None:
    monkeypatch.setattr(tool, "find_installed", lambda: (f"{prefix}00000000", "/somewhere"))
    renewed: list[Path] = []
    monkeypatch.setattr(tool, "install_archive", lambda archive, folder: renewed.append(archive))
    assert tool.main(["--archive", str(tmp_path / "a.tar.gz")]) == 0
    assert renewed == [tmp_path / "a.tar.gz"]


def test_the_wheel_alone_is_built_beside_an_installed_detectron2(monkeypatch, tmp_path) -> None:
    wheel = tmp_path / "detectron2.whl"
    wheel.touch()
    monkeypatch.setattr(tool, "find_installed", lambda: ("0.6", "/somewhere/detectron2"))
    monkeypatch.setattr(tool, "wheel_from_archive", lambda archive, folder: wheel)
    monkeypatch.setattr(tool, "run_pip", lambda *_: pytest.fail("pip must not run"))
    folder = tmp_path / "new" / "wheels"
    assert tool.main(["--archive", "a.tar.gz", "--wheel-dir", str(folder)]) == 0
    assert (folder / wheel.name).is_file()


def test_find_installed_reports_what_python_imports() -> None:
    found = tool.find_installed()
    assert found is not None
    assert found == (importlib.metadata.version("detectron2"), str(INSTALLED))


def test_running_pip_reports_a_failure() -> None:
    with pytest.raises(tool.InstallError, match="pip no-such-command .*failed"):
        tool.run_pip("no-such-command")
