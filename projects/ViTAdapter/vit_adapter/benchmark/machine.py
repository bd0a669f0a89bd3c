"""The machine that figures are from."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from vit_adapter import __version__
from vit_adapter.ops import extension_info
from vit_adapter.ops.processor import computes_bfloat16

__all__ = ["describe_machine", "describe_run"]


def describe_machine(device: torch.device) -> str:
    """Return the name of the machine, and what the operator is computed with."""
    info = extension_info()
    backend = info["backends"].get(device.type, "reference")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, ours: {backend}"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, ours: {backend} {info['cpu_instruction_set']}"
    ).rstrip()


def describe_run(device: torch.device) -> dict[str, Any]:
    """Describe the machine, the software and the conditions of a measurement that begins.

    Returns:
        ``text``, all of it in a few lines; and as values ``device``, ``processor``, ``cores``,
        ``threads``, ``instruction_set`` (of PyTorch), ``operator`` (what computes it),
        ``bfloat16`` (whether the device has instructions for it), ``load`` (processes that wanted
        to run in the last minute, where the system says so) and ``versions``.
    """
    info = extension_info()
    versions = {name: _version(name) for name in ("torch", "torchvision", "detectron2")}
    versions |= {"vit_adapter": __version__, "python": platform.python_version()}
    values = {
        "device": str(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "operator": info["backends"].get(device.type, "reference"),
        "bfloat16": computes_bfloat16(device.type),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }
    lines = [
        describe_machine(device),
        f"PyTorch uses {values['instruction_set']}; bfloat16: "
        f"{'instructions' if values['bfloat16'] else 'emulated'}; load at the start: "
        f"{values['load']}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return {"text": "\n".join(lines), **values}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
