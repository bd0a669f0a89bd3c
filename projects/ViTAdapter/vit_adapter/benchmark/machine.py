"""The machine that figures are from."""

import os
import platform
from pathlib import Path

import torch

from vit_adapter.ops import extension_info

__all__ = ["describe_machine", "processor_name"]


def describe_machine(device: torch.device) -> str:
    """Return the name of the machine, and what the operator is computed with."""
    info = extension_info()
    backend = info["backends"].get(device.type, "reference")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, ours: {backend}"
    return (
        f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, ours: {backend} {info['cpu_instruction_set']}"
    ).rstrip()


def processor_name() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
