"""What is timed is the device of the model, also if it is not the current one."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import MagicMock

import pytest
import torch

from vit_adapter.benchmark.components import component_times
from vit_adapter.benchmark.measurement import measure_together
from vit_adapter.benchmark.models import Subject
from vit_adapter.benchmark.timing import medians
from vit_adapter.benchmark.variants import Variant

SECOND = torch.device("cuda:1")


class Cuda:
    """Stands in for two GPUs; notes the device of every event and every wait."""

    def __init__(self) -> None:
        self.current = torch.device("cuda:0")
        self.used: list[torch.device] = []
        self.most_queued = 10  # calls before the device begins with them
        self.queued = 0

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device
        yield
        self.current = before

    def note(self, device: torch.device | None = None) -> None:
        self.used.append(device or self.current)

    def sleep(self, cycles: int) -> None:
        self.note()
        self.queued = 0

    def call(self) -> None:
        self.queued += 1

    def make_event(self, **options: object) -> MagicMock:
        event = MagicMock()
        event.record = self.note
        event.query = lambda: self.queued > self.most_queued
        event.elapsed_time.return_value = 30.0
        return event


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda, module = Cuda(), MagicMock()
    module.device, module.synchronize, module.Event = cuda.device, cuda.note, cuda.make_event
    module.current_stream = lambda device=None: device or cuda.current
    module.max_memory_allocated.return_value = module.memory_allocated.return_value = 0
    module._sleep = cuda.sleep
    monkeypatch.setattr(torch, "cuda", module)
    return cuda


def test_medians(cuda: Cuda) -> None:
    assert medians({"call": cuda.call}, 1, SECOND) == {"call": 3.0}  # ten calls
    assert set(cuda.used) == {SECOND}


@pytest.mark.parametrize(("most", "calls"), [(7, 5), (3, 2), (0, 1)])
def test_fewer_calls_are_timed_if_they_are_not_queued_in_time(most, calls, cuda: Cuda) -> None:
    """The device would wait for the host between them."""
    cuda.most_queued = most
    assert medians({"call": cuda.call}, 1, SECOND) == {"call": 30.0 / calls}


class Model(torch.nn.Module):
    """A backbone that leaves its images as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Identity()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, batch: list[dict]) -> torch.Tensor:
        return self.backbone(batch[0]["image"])


def test_components(cuda: Cuda) -> None:
    model = Model()
    times = component_times(model, lambda: model([{"image": torch.ones(1)}]), SECOND)
    assert times == {"input": 30.0, "neck": 30.0, "post-processing": 30.0}
    assert set(cuda.used) == {SECOND}


def test_models(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "device", SECOND)
    options = {"batch_size": 1, "size": (4, 4), "repeats": 2, "training": False}
    (record,) = measure_together([Subject("a", Model(), 3, 3)], [Variant()], **options)
    assert len(record["times_ms"]) == 2 and "error" not in record
    assert set(cuda.used) == {SECOND}
