"""No program shows a warning about which its users can do nothing."""

import re
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[3] / "projects" / "ViTAdapter" / "tools"
IMPORT = re.compile(r"^from (detectron2|vit_adapter\.data)\b", re.MULTILINE)  # they import fvcore
PROGRAMS = [path for path in TOOLS.glob("*.py") if IMPORT.search(path.read_text("utf-8"))]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_the_warning_of_fvcore_is_left_out(program: Path) -> None:
    text = program.read_text(encoding="utf-8")
    before = text[: IMPORT.search(text).start()]
    assert 'warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated"' in before


def test_there_are_such_programs() -> None:
    assert {"convert_checkpoint", "demo", "prepare_dataset"} <= {path.stem for path in PROGRAMS}
