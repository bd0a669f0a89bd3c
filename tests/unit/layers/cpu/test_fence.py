"""PyTorch's private names are used in one folder only, and each fast path lists those it needs."""

import re
from pathlib import Path

import vit_adapter
from vit_adapter.ops.cpu_fast_paths import PRIVATE_NAMES

PACKAGE = Path(vit_adapter.__file__).parent
INSIDE = sorted((PACKAGE / "layers" / "cpu").glob("*.py"))
PROBE = [PACKAGE / "ops" / name for name in ("cpu_fast_paths.py", "processor.py")]
OUTSIDE = sorted(set(PACKAGE.rglob("*.py")) - {*INSIDE, *PROBE})
# PyTorch has no other names for these: a product and a ReLU in one kernel, dispatch modes and
# AOTInductor, which it documents, and keeping a GPU busy in a benchmark.
WITHOUT_PUBLIC_NAME = {
    "linear_relu.py": ["torch._addmm_activation"],
    "memory.py": ["torch.utils._python_dispatch"],
    "formats.py": ["torch._inductor", "torch._inductor"],
    "timing.py": ["torch.cuda._sleep"],
}
PRIVATE = re.compile(r"\btorch(?:\.\w+)*\._(?!_)\w+(?:\.\w+)*")


def test_no_other_module_uses_private_names() -> None:
    assert OUTSIDE
    used = {path.name: names for path in OUTSIDE if (names := PRIVATE.findall(path.read_text()))}
    assert used == WITHOUT_PUBLIC_NAME


def test_fast_paths_list_the_names_that_they_use() -> None:
    used = {name for path in INSIDE for name in PRIVATE.findall(path.read_text())}
    listed = {name for names in PRIVATE_NAMES.values() for name in names}
    assert {name.removesuffix(".default") for name in used} == listed


def test_no_private_name_is_needed_for_an_import() -> None:
    for path in INSIDE:
        statements = [line for line in path.read_text().splitlines() if line[:1].isalpha()]
        assert not PRIVATE.search("\n".join(statements)), path.name
