"""The requirements in setup.py: enough for Detectron2, and consistent with requirements.txt."""

import ast
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

from vit_adapter.install_detectron2.installer import RUNTIME_DEPENDENCIES

ROOT = Path(__file__).parents[2]


def by_name(requirements: Iterable[str]) -> dict[str, Requirement]:
    parsed = map(Requirement, requirements)
    return {requirement.name.lower(): requirement for requirement in parsed}


def constant(name: str) -> object:
    """A constant of setup.py, which cannot be imported without running it."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"setup.py has no {name}")


def declared() -> dict[str, Requirement]:
    return by_name(constant("INSTALL_REQUIRES"))


def test_the_package_installs_what_detectron2_needs() -> None:
    # The tool installs only Detectron2, without its dependencies.
    assert by_name(RUNTIME_DEPENDENCIES).keys() <= declared().keys()


def test_pins_are_within_the_ranges() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = by_name(line for line in lines if line and not line.startswith("#"))
    for name, requirement in declared().items():
        (pin,) = pins[name].specifier
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), name


def test_extras_name_the_optional_libraries() -> None:
    # The error for a missing library says `pip install <name>`.
    extras = constant("EXTRAS_REQUIRE")
    assert {name: list(by_name(extras[name])) for name in extras} == {
        "wandb": ["wandb"],
        "mlflow": ["mlflow"],
        "compare": ["hotcoco"],
        "export": ["onnx", "onnxscript", "onnxruntime"],
        "web": ["gradio"],
        "images": ["tifffile", "imageio"],
    }
    assert not extras.keys() & declared().keys()
