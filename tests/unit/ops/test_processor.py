"""What the processor computes efficiently."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from vit_adapter.ops import processor
from vit_adapter.ops.processor import (
    channels_last_trains_slowly,
    computes_bfloat16,
    onednn_is_faster,
)

onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="needs a PyTorch with oneDNN"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A function that makes PyTorch see another processor."""

    def pretend(
        *, onednn: bool | None, avx512_bf16: bool = False, kind: str = "x86_64", limit: str = ""
    ) -> None:
        operators = {} if onednn is None else {"_is_mkldnn_bf16_supported": lambda: onednn}
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operators))
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False
        )
        monkeypatch.setattr("platform.machine", lambda: kind)
        monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)

    return pretend


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ({"onednn": True, "avx512_bf16": True}, True),
        ({"onednn": True, "avx512_bf16": True, "kind": "AMD64"}, True),
        ({"onednn": True, "avx512_bf16": False}, False),  # AVX-512 without bfloat16: emulated
        ({"onednn": False, "avx512_bf16": False}, False),  # AVX2
        ({"onednn": False, "avx512_bf16": True}, False),  # oneDNN limited
        ({"onednn": True, "avx512_bf16": True, "limit": "avx512_core"}, False),
        ({"onednn": True, "avx512_bf16": True, "limit": "AVX512_CORE_BF16"}, True),
        ({"onednn": True, "kind": "aarch64"}, True),
        ({"onednn": False, "kind": "aarch64"}, False),
        ({"onednn": None, "kind": "arm64"}, False),  # PyTorch without oneDNN
    ],
)
def test_bfloat16_on_processors(machine, description: dict, expected: bool) -> None:
    machine(**description)
    assert computes_bfloat16("cpu") == expected


@pytest.mark.parametrize(("flags", "expected"), [("avx2 avx512_bf16", True), ("avx2", False)])
def test_bfloat16_where_pytorch_does_not_know_the_processor(
    machine, monkeypatch: pytest.MonkeyPatch, flags: str, expected: bool
) -> None:
    machine(onednn=True)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    processor._describe_processor.cache_clear()
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: f"flags\t: fpu {flags}\n")
    try:
        assert computes_bfloat16("cpu") == expected
    finally:
        processor._describe_processor.cache_clear()


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_on_gpus(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation: including_emulation or native
    )
    assert computes_bfloat16("cuda") == native


@onednn
@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="oneDNN has limits for x86 only"
)
def test_follows_what_onednn_may_use() -> None:
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['computes_bfloat16']('cpu'))"
    result = subprocess.run(
        [sys.executable, "-c", code, processor.__file__],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("capability", ["AVX512", "AVX2", "DEFAULT"])
@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel"])
def test_onednn_is_for_amd_with_avx_512(monkeypatch, capability: str, vendor: str) -> None:
    monkeypatch.setattr(processor, "_describe_processor", lambda: f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert onednn_is_faster() == ((vendor, capability) == ("AuthenticAMD", "AVX512"))


@pytest.mark.parametrize(("instructions", "slow"), [("AVX2", True), ("AVX512", False)])
def test_layout_depends_on_the_instructions(monkeypatch, instructions: str, slow: bool) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: instructions)
    assert channels_last_trains_slowly() == slow
