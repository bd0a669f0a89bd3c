"""The compiled extension: loading it, describing it, and choosing the backend of a device."""

import functools
import importlib
import os
import warnings
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch  # before vit_adapter._C, which links to torch's libraries

from vit_adapter.ops.cpu_fast_paths import describe_fast_paths

__all__ = ["Backend", "extension_info", "has_kernel", "load_extension", "select_backend"]

Backend = Literal["kernel", "embedding_bag", "reference"]

_EXTENSION = "vit_adapter._C"
_REBUILD = "reinstall it with `pip install --no-build-isolation -e .` in the project's root folder"


class LoadedExtension(NamedTuple):
    """The extension module, or None and the reason."""

    module: ModuleType | None
    problem: str


@functools.cache
def load_extension() -> LoadedExtension:
    """Import the compiled extension once.

    It can be missing in two ways, and ``problem`` says which: it was not built (this is normal:
    plain PyTorch is used instead), or it was built for another torch or from older sources (this is
    an error, and also gives a warning).
    """
    try:
        module = importlib.import_module(_EXTENSION)
    except ModuleNotFoundError as error:
        if error.name != _EXTENSION:
            raise
        return LoadedExtension(None, f"{_EXTENSION} was not built; to get kernels, {_REBUILD}")
    except ImportError as error:
        return _unusable(f"does not load with torch {torch.__version__} ({error})")
    built_for = module.build_info()["torch"]
    if built_for.split(".")[:2] != torch.__version__.split(".")[:2]:
        return _unusable(f"was built for torch {built_for}, but this is torch {torch.__version__}")
    if not hasattr(module, "register_operators"):
        return _unusable("was built from older sources than those of this package")
    return LoadedExtension(module, "")


def _unusable(reason: str) -> LoadedExtension:
    problem = f"{_EXTENSION} {reason}; {_REBUILD}"
    warnings.warn(f"{problem}. Until then plain PyTorch is used.", RuntimeWarning, stacklevel=4)
    return LoadedExtension(None, problem)


def has_kernel(device_type: str) -> bool:
    """Whether the extension has kernels for a device type such as ``"cpu"`` or ``"cuda"``."""
    return hasattr(load_extension().module, f"ms_deform_attn_forward_{device_type}")


def select_backend(device_type: str) -> Backend:
    """Choose the implementation of multi-scale deformable attention for a device type.

    This is the kernel if there is one. Otherwise it is the embedding bag on the CPU, where it is
    the faster of the two plain formulations, and `grid_sample` elsewhere.
    ``VIT_ADAPTER_FORCE_REFERENCE=1`` in the environment selects `grid_sample` everywhere.
    """
    if os.environ.get("VIT_ADAPTER_FORCE_REFERENCE", "0") not in ("", "0"):
        return "reference"
    if has_kernel(device_type):
        return "kernel"
    return "embedding_bag" if device_type == "cpu" else "reference"


def extension_info() -> dict[str, Any]:
    """Describe the compiled extension and what is used on each device.

    Returns:
        ``built``: whether a usable extension is installed; ``problem``: if not, why and what to do;
        ``torch``: the version it was built for; ``compiler``; ``cuda``: the toolkit's version and
        ``cuda_architectures``: such as ``["8.0", "9.0"]`` (empty without CUDA kernels);
        ``cpu_instruction_set``: the one the CPU kernels chose on this machine;
        ``backends``: device type -> ``"kernel"``, ``"embedding_bag"`` or ``"reference"``;
        ``cpu_fast_paths``: fast path on the CPU -> ``"on"``, or ``"off: "`` and the reason.
    """
    module, problem = load_extension()
    info: dict[str, Any] = {"torch": "", "compiler": "", "cuda": "", "cuda_architectures": []}
    info["cpu_instruction_set"] = ""
    if module is not None:
        info.update(module.build_info())
    backends = {device: select_backend(device) for device in ("cpu", "cuda")}
    info |= {"backends": backends, "cpu_fast_paths": describe_fast_paths()}
    return {"built": module is not None, "problem": problem, **info}
