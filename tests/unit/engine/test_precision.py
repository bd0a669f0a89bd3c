"""Supported and unsupported precisions."""

import pytest
import torch
from torch import nn

from vit_adapter.config import precision as precision_module
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.precision import Precision


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enabled": True, "dtype": "float16"}, "float16 needs CUDA.*bfloat16"),
        ({"enabled": True, "dtype": "half"}, "'half' is unknown; expected float16 or bfloat16"),
    ],
)
def test_unsupported_precision(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Precision(device_type="cpu", **options)


@pytest.mark.parametrize(
    ("device_type", "enabled", "dtype", "native", "advice"),
    [
        ("cpu", True, "bfloat16", False, "train.amp.enabled=False is faster"),
        ("cuda", True, "bfloat16", False, "train.amp.dtype=float16 is faster"),
        ("cpu", True, "bfloat16", True, None),
        ("cpu", False, "bfloat16", False, None),
        ("cuda", True, "float16", False, None),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler")  # it finds no GPU
def test_emulated_bfloat16_is_kept_with_a_warning(
    device_type: str,
    enabled: bool,
    dtype: str,
    native: bool,
    advice: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(precision_module, "computes_bfloat16", lambda device_type: native)
    precision = Precision(enabled=enabled, dtype=dtype, device_type=device_type)
    assert (precision.enabled, precision.dtype) == (enabled, getattr(torch, dtype))
    assert len(caplog.messages) == (advice is not None)
    assert advice is None or advice in caplog.text


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "scaled"), [("float16", True), ("bfloat16", False)])
def test_precision_on_cuda(dtype: str, scaled: bool) -> None:
    precision = Precision(enabled=True, dtype=dtype, device_type="cuda")
    assert precision.scaler.is_enabled() is scaled
    linear = nn.Linear(4, 4).cuda()
    with precision.autocast():
        assert linear(torch.zeros(1, 4, device="cuda")).dtype == getattr(torch, dtype)
