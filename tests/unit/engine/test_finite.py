"""Checking losses while the device computes."""

import math
from unittest.mock import MagicMock, call

import pytest
import torch

from vit_adapter.engine.finite import FiniteCheck


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers(bad: float, device: torch.device) -> None:
    check = FiniteCheck()
    for numbers, expected in (
        ([1.0, 2.0], True),
        ([1.0, bad], False),
        ([bad], False),
        ([3.0], True),
    ):
        check.start(torch.tensor(numbers, device=device))
        assert check.passed() is expected


def test_nothing_waits_on_the_device_before_the_answer_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order of the calls, with stand-ins for CUDA: the copy waits on a stream of its own."""
    cuda = MagicMock()
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: cuda.pinned)
    cuda.pinned.item.return_value = 1
    numbers = MagicMock()
    flag = numbers.isfinite().all().to()
    flag.is_cuda = True
    check = FiniteCheck()
    check.start(numbers)
    stream, event = cuda.Stream(), cuda.Event()
    stream.wait_stream.assert_called_once_with(cuda.current_stream())
    cuda.pinned.copy_.assert_called_once_with(flag, non_blocking=True)
    assert event.mock_calls == [call.record()]
    flag.item.assert_not_called()
    assert check.passed()
    assert event.mock_calls == [call.record(), call.synchronize()]
    flag.item.assert_not_called()
