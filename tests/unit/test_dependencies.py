"""Imports in the package go one way: specific parts import general ones."""

import ast
from pathlib import Path

import pytest

import vit_adapter

PACKAGE = Path(vit_adapter.__file__).parent

# What each part may import in addition to itself. A new part needs a line here.
ALLOWED = {
    "utils": set(),
    "ops": set(),
    "layers": {"ops"},
    "backbone": {"layers", "ops", "utils"},
    "segmentation": {"layers"},
    "detection": {"layers", "segmentation"},
    "mask2former": {"layers"},
    "test_time": {"data", "detection", "layers", "mask2former"},
    "solver": {"backbone"},
    "data": {"utils"},
    "evaluation": {"data", "drawing", "utils"},
    "drawing": {"data", "utils"},
    "checkpoint": {"backbone", "layers", "utils"},
    "hub": {"checkpoint", "utils"},
    "model_zoo": {"utils"},
    "config": {
        "backbone",
        "checkpoint",
        "data",
        "evaluation",
        "hub",
        "layers",
        "model_zoo",
        "ops",
        "test_time",
        "utils",
    },
    "feature_cache": {"backbone", "layers", "utils"},
    "benchmark": {"backbone", "checkpoint", "config", "layers", "model_zoo", "ops", "test_time"},
    "engine": {
        "backbone",
        "benchmark",
        "checkpoint",
        "config",
        "data",
        "drawing",
        "evaluation",
        "feature_cache",
        "layers",
        "ops",
        "utils",
    },
    "sharing": {"config", "hub"},
    "export": {
        "backbone",
        "config",
        "detection",
        "layers",
        "mask2former",
        "ops",
        "segmentation",
        "utils",
    },
    "comparison": {"checkpoint", "config", "data", "evaluation", "utils"},
    "predictor": {"checkpoint", "config", "data", "sharing", "test_time"},
    "install_detectron2": set(),
    "doctor": {"install_detectron2", "ops"},
    "web": {"config", "data", "drawing", "evaluation", "predictor"},
    "yacs": {"model_zoo", "backbone", "checkpoint", "segmentation"},
}
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})
TOOLS = sorted(PACKAGE.parent.joinpath("tools").glob("*.py"))


def imported_parts(source: str, package: list[str]) -> set[str]:
    """Name the parts of vit_adapter that a module of ``package`` imports, also in functions.

    Args:
        source: source code of the module.
        package: dotted name of the package that contains the module, split at the dots.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "vit_adapter" and part[1][:1].islower()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    package = ["vit_adapter", *inside[:-1]]
    part = inside[0]
    foreign = imported_parts(path.read_text(), package) - ALLOWED[part] - {part}
    assert not foreign, f"{part} may import {sorted(ALLOWED[part])}, not {sorted(foreign)}"


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_tools_do_not_train(path: Path) -> None:
    assert "engine" not in imported_parts(path.read_text(), [])


def test_finds_every_form_of_import() -> None:
    source = (
        "import vit_adapter.data.instances.mapper\nfrom ..engine import x\nfrom . import y\n"
        "def f():\n    from vit_adapter import yacs, ViTAdapter\n"
    )
    assert imported_parts(source, ["vit_adapter", "ops"]) == {"data", "engine", "ops", "yacs"}
