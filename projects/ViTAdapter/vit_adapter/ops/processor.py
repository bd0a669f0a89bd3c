"""What the processor computes efficiently; nothing else asks it."""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch

# Values of ONEDNN_MAX_CPU_ISA with which oneDNN emulates bfloat16, although it reports support.
_LIMITS_WITHOUT_BFLOAT16 = ("AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


def computes_bfloat16(device_type: str) -> bool:
    """Whether a device has instructions for bfloat16. Emulation is slower than float32.

    On the CPU, oneDNN multiplies matrices in bfloat16, so it must be allowed to use these
    instructions. GPUs older than Ampere emulate bfloat16.

    Args:
        device_type: "cpu", "cuda" or another; others are assumed to have the instructions.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type != "cpu" or _cpu_computes_bfloat16()


def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 matrices faster than PyTorch's choice, MKL.

    MKL has no AVX-512 code for AMD's processors.
    """
    return (
        "AuthenticAMD" in _describe_processor()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def channels_last_trains_slowly() -> bool:
    """Whether oneDNN computes the weight gradients of channels-last convolutions slowly.

    Its AVX-512 code does not.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def _cpu_computes_bfloat16() -> bool:
    if not hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported"):  # PyTorch without oneDNN
        return False
    # torch.jit.trace, which records one thread, cannot record this question.
    with ThreadPoolExecutor(max_workers=1) as thread:
        supported = thread.submit(torch.ops.mkldnn._is_mkldnn_bf16_supported).result()
    if not supported:
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", ""))
    return _has_avx512_bf16() and limit.upper() not in _LIMITS_WITHOUT_BFLOAT16


def _has_avx512_bf16() -> bool:
    """Whether the processor has the AVX-512 extension for bfloat16, as all with AMX do."""
    if hasattr(torch.cpu, "_is_avx512_bf16_supported"):
        return torch.cpu._is_avx512_bf16_supported()
    return "avx512_bf16" in _describe_processor()  # PyTorch 2.4 does not tell


@lru_cache
def _describe_processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.processor()
