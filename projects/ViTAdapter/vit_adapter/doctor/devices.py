"""The devices of this machine, and what computes the operator on each."""

import math
import os
import platform
import re
import warnings
from pathlib import Path

from vit_adapter.doctor import remedies
from vit_adapter.doctor.section import Options, Section

__all__ = ["check", "count_cores", "processor_name"]

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# Variables that switch fast code off -> values that do not.
SWITCHES = {
    "VIT_ADAPTER_FORCE_REFERENCE": ("", "0"),
    "VIT_ADAPTER_CPU_FAST_PATHS": ("1",),
    "VIT_ADAPTER_CPU_CAPABILITY": ("", "avx512"),
}


def check(options: Options) -> Section:
    """Describe the processor and the GPUs."""
    import torch

    from vit_adapter.ops import extension_info
    from vit_adapter.ops.processor import computes_bfloat16

    with warnings.catch_warnings():  # the build check reports them
        warnings.simplefilter("ignore")
        info = extension_info()
    backends = info["backends"]
    cores, threads = count_cores(), torch.get_num_threads()
    section = Section(
        {
            "cpu": processor_name(),
            "cores": cores,
            "threads": threads,
            "operator on the cpu": backends["cpu"],
            "instruction set": info["cpu_instruction_set"] or "chosen by PyTorch",
            "bfloat16 instructions": computes_bfloat16("cpu"),
            "fast paths": info["cpu_fast_paths"],
        }
    )
    if threads > cores:
        section.warn(
            f"PyTorch uses {threads} threads, but this process may use {cores} cores only; the "
            "threads wait for each other.",
            f"export OMP_NUM_THREADS={cores}",
        )
    for name, ignored in SWITCHES.items():
        value = os.environ.get(name)
        if value is not None and value not in ignored:
            section.warn(f"{name}={value} makes the CPU slower.", f"unset {name}")
    _describe_gpus(section, backends["cuda"])
    return section


def _describe_gpus(section: Section, backend: str) -> None:
    """Add the GPUs, or why PyTorch cannot use them."""
    import torch

    from vit_adapter.ops.processor import computes_bfloat16

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        gpus.append(
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / 2**30:.0f} GiB"
        )
    section.facts |= {"gpus": gpus, "torch built for cuda": torch.version.cuda or "no"}
    if gpus:
        section.facts["operator on the gpu"] = backend
        section.facts["bfloat16 on the gpu"] = computes_bfloat16("cuda")
    elif NVIDIA_DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        cause = (
            "it was built for the CPU only"
            if torch.version.cuda is None
            else f"it was built for CUDA {torch.version.cuda}, which the driver may be too old for"
        )
        section.warn(
            f"This machine has an NVIDIA driver, but PyTorch sees no GPU: {cause}.",
            "Install a PyTorch for the driver's CUDA version, which `nvidia-smi` shows: "
            "https://pytorch.org/get-started/locally. Then: " + remedies.rebuild(),
        )


def count_cores() -> int:
    """Return how many cores this process may use: of its affinity, and of a container's quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroups, or "max": no limit
        return cores


def processor_name() -> str:
    """Return the name that the system gives the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor() or platform.machine()
