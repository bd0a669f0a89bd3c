"""What unit tests of all folders can use."""

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Allows fake tensors on CUDA, and makes autocast and the operator accept them."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr("vit_adapter.ops.functional.select_backend", lambda device_type: "kernel")
    return FakeTensorMode()
