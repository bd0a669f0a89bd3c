"""Kept: a tensor that kernels of several CUDA streams read, with streams that only take notes."""

from collections.abc import Callable

import pytest
import torch
from fake_cuda import FakeStream
from timm.layers import RotaryEmbeddingCat
from torch import Tensor, nn

from vit_adapter.backbone.timm_vit import families
from vit_adapter.backbone.timm_vit.families import EvaFamily
from vit_adapter.layers import derived, pyramid
from vit_adapter.layers.derived import DerivedTensors
from vit_adapter.layers.kept import Kept
from vit_adapter.layers.pyramid import reference_points


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[FakeStream]:
    """The streams for which the memory of tensors is kept."""
    streams: list[FakeStream] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: streams.append(stream))
    return streams


def make_streams(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeStream, FakeStream]:
    """Two streams, the first of them current; `FakeStream.current` switches."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: FakeStream.current)
    first, second = FakeStream(), FakeStream()
    monkeypatch.setattr(FakeStream, "current", first)
    return first, second


def test_another_stream_waits_once(fake_cuda, monkeypatch, recorded) -> None:
    first, second = make_streams(monkeypatch)
    with fake_cuda:
        value = torch.ones(2, device="cuda"), torch.ones(3, device="cuda")
    shared = Kept(value)
    assert shared.read() is value and not first.waited_for and not recorded
    FakeStream.current = second
    for _ in range(2):
        assert shared.read() is value
    assert second.waited_for == first.events and len(first.events) == 1
    assert recorded == [second, second]  # each tensor once


def test_a_capture_does_not_wait(fake_cuda, monkeypatch, recorded) -> None:
    _, second = make_streams(monkeypatch)
    with fake_cuda:
        shared = Kept(torch.ones(2, device="cuda"))
    FakeStream.current = second
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    shared.read()
    assert not second.waited_for and not recorded
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    shared.read()
    assert second.waited_for and recorded == [second]


def test_the_cpu_has_no_streams(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: pytest.fail("asked"))
    value = torch.ones(2)
    assert Kept(value).read() is value


def _constant() -> Callable[[], Tensor]:
    return lambda: reference_points([(3, 2)], device=torch.device("cuda"), dtype=torch.float32)


def _derived() -> Callable[[], Tensor]:
    cache, table = DerivedTensors(), nn.Parameter(torch.ones(3, device="cuda"))
    return lambda: cache.get([table], "", lambda: table + 1)


def _rotary() -> Callable[[], Tensor]:
    model = nn.Module()
    model.rope = RotaryEmbeddingCat(8, device=torch.device("cuda"))
    family = EvaFamily()
    return lambda: family.positions(model, (3, 2))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("make", [_constant, _derived, _rotary])
def test_caches_order_streams(make, fake_cuda, monkeypatch, recorded) -> None:
    first, second = make_streams(monkeypatch)
    for module in (derived, pyramid, families):
        monkeypatch.setattr(module, "holds_numbers", lambda tensor: True)
    monkeypatch.setattr(pyramid, "_constants", {})
    with fake_cuda, torch.no_grad():
        get = make()
        value = get()
        FakeStream.current = second
        assert get() is value
    assert second.waited_for == first.events and recorded == [second]


@pytest.mark.cuda
def test_streams_share_a_value_without_waits_of_the_host() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        shared = Kept(torch.ones(1000, device="cuda") * 2)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            sums = [shared.read().sum() for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    side.synchronize()
    assert [value.item() for value in sums] == [2000.0, 2000.0]
