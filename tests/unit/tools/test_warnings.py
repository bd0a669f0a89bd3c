"""No program shows a warning about which its users can do nothing."""

from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[3] / "projects" / "ViTAdapter" / "tools"
PROGRAMS = [path for path in TOOLS.glob("*.py") if "\nfrom detectron2" in path.read_text("utf-8")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_the_warning_of_fvcore_is_left_out(program: Path) -> None:
    before = program.read_text(encoding="utf-8").split("\nfrom detectron2")[0]
    assert 'warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated"' in before


def test_there_are_such_programs() -> None:
    assert {"convert_checkpoint", "demo", "package_model"} <= {path.stem for path in PROGRAMS}
