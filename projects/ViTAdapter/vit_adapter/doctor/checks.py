"""The checks, in their order, and running one of them."""

import importlib
import traceback
from typing import NamedTuple

from vit_adapter.doctor import remedies
from vit_adapter.doctor.environment import can_import_torch
from vit_adapter.doctor.section import Options, Section

__all__ = ["CHECKS", "Check", "run_check"]


class Check(NamedTuple):
    """A check.

    Attributes:
        title: its heading in the report.
        module: has the function ``check(options)``, which returns a section.
        limit: seconds that it may take; slow disks and loaded machines make imports take minutes.
        needs_torch: whether it is left out without PyTorch.
        uses_kernels: whether the extension is the likely cause if its process is killed.
    """

    title: str
    module: str
    limit: float = 600.0
    needs_torch: bool = True
    uses_kernels: bool = False


_HOME = "vit_adapter.doctor"
CHECKS = {
    "environment": Check("Environment", f"{_HOME}.environment", needs_torch=False),
    "folders": Check("Folders", f"{_HOME}.folders", limit=60, needs_torch=False),
    "build": Check("Extension", f"{_HOME}.build", uses_kernels=True),
    "devices": Check("Devices", f"{_HOME}.devices", uses_kernels=True),
    "self_test": Check("Self-test of the operator", f"{_HOME}.self_test", uses_kernels=True),
    "speed": Check("Speed of the operator", f"{_HOME}.speed", uses_kernels=True),
    "detectron2": Check("Detectron2", f"{_HOME}.detectron2_state", needs_torch=False),
}


def run_check(name: str, options: Options) -> Section:
    """Run a check in this process; an exception that it raises becomes a fault."""
    check = CHECKS[name]
    if check.needs_torch and not can_import_torch():
        return Section({"left out": "PyTorch cannot be imported"})
    try:
        return importlib.import_module(check.module).check(options)
    except Exception as error:
        section = Section()
        section.fault(
            f"The check raised {type(error).__name__}: {error}",
            remedies.rebuild() if check.uses_kernels else remedies.REPORT_IT,
            traceback.format_exc(),
        )
        return section
