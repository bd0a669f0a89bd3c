"""The programs in ``projects/ViTAdapter/tools``, imported as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).parents[1] / "projects" / "ViTAdapter" / "tools"


def load_tool(name: str) -> ModuleType:
    """Import ``<name>.py``, each time as a new module, so that tests may change it."""
    spec = importlib.util.spec_from_file_location(f"vit_adapter_tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
