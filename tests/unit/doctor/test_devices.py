"""The device check: threads, switches, containers and GPUs that PyTorch cannot use."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vit_adapter.doctor import devices
from vit_adapter.doctor.section import Options


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch, tmp_path):
    """No GPU, no driver, no limits, no switches."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", tmp_path / "missing")
    monkeypatch.setattr(devices, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for name in devices.SWITCHES:
        monkeypatch.delenv(name, raising=False)


def test_describes_the_processor():
    section = devices.check(Options())
    assert section.findings == []
    assert section.facts["cores"] >= 1
    assert section.facts["operator on the cpu"] in ("kernel", "embedding_bag")
    assert section.facts["gpus"] == []


def test_more_threads_than_the_container_may_use(monkeypatch):
    devices.CPU_QUOTA.write_text("150000 100000\n")
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: range(8), raising=False)
    assert devices.count_cores() == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    (finding,) = devices.check(Options()).findings
    assert "8 threads, but this process may use 2 cores" in finding.what
    assert finding.fix == "export OMP_NUM_THREADS=2"


def test_no_quota(monkeypatch):
    devices.CPU_QUOTA.write_text("max 100000\n")
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: range(8), raising=False)
    assert devices.count_cores() == 8


def test_switches_that_make_it_slower(monkeypatch):
    monkeypatch.setenv("VIT_ADAPTER_FORCE_REFERENCE", "1")
    monkeypatch.setenv("VIT_ADAPTER_CPU_FAST_PATHS", "1")
    (finding,) = devices.check(Options()).findings
    assert finding.fix == "unset VIT_ADAPTER_FORCE_REFERENCE"


@pytest.mark.parametrize(
    ("cuda", "cause"), [(None, "built for the CPU only"), ("13.0", "built for CUDA 13.0")]
)
def test_a_gpu_that_pytorch_does_not_see(cuda, cause, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (finding,) = devices.check(Options()).findings
    assert "PyTorch sees no GPU" in finding.what and cause in finding.what
    assert "nvidia-smi" in finding.fix and "--no-build-isolation -e ." in finding.fix
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert devices.check(Options()).findings == []


def test_describes_gpus(monkeypatch):
    properties = SimpleNamespace(name="Card", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    facts = devices.check(Options()).facts
    assert facts["gpus"] == ["Card, compute capability 9.0, 80 GiB"] * 2
    assert facts["operator on the gpu"] in ("kernel", "reference")
