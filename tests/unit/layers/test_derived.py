"""Tensors that inference derives from parameters: kept while nothing has changed."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.layers.derived import DerivedTensors, DerivesTensors, held_for_graph


class _Counted:
    """A table, a cache, and how often the bias was computed."""

    def __init__(self, rows: int = 4) -> None:
        self.table = nn.Parameter(torch.zeros(rows))
        self.cache = DerivedTensors()
        self.computed = 0

    def get(self, key: str = "a") -> Tensor:
        return self.cache.get([self.table], key, self._make)

    def _make(self) -> Tensor:
        self.computed += 1
        return self.table * 1


@torch.no_grad()
def test_a_value_is_computed_once_for_each_key() -> None:
    counted = _Counted()
    assert counted.get() is counted.get()
    counted.get("b")
    assert counted.get() is counted.get()
    assert counted.computed == 2


def _step(counted: _Counted) -> None:
    counted.table.grad = torch.ones_like(counted.table)
    torch.optim.SGD([counted.table], lr=1.0).step()


def _replace(counted: _Counted) -> None:
    counted.table = nn.Parameter(torch.ones(4))


def _replace_data(counted: _Counted) -> None:
    counted.table.data = torch.ones(4)


def _load(counted: _Counted) -> None:
    module = nn.Module()
    module.table = counted.table
    module.load_state_dict({"table": torch.full((4,), 3.0)})


@pytest.mark.parametrize("change", [_step, _replace, _replace_data, _load])
@torch.no_grad()
def test_no_value_outlives_its_source(change: object) -> None:
    counted = _Counted()
    counted.get()
    change(counted)
    assert torch.equal(counted.get(), counted.table)
    assert counted.get().abs().sum() > 0


@torch.no_grad()
def test_a_write_while_a_value_is_made_is_noticed() -> None:
    cache, table = DerivedTensors(), nn.Parameter(torch.zeros(4))

    def make_and_write() -> Tensor:  # as if another thread loaded weights
        value = table * 1
        table.fill_(3)
        return value

    cache.get([table], "", make_and_write)
    assert torch.equal(cache.get([table], "", lambda: table * 1), table)


def test_nothing_is_kept_while_gradients_are_computed() -> None:
    counted = _Counted()
    with torch.no_grad():
        kept = counted.get()
    assert counted.get().requires_grad
    with torch.no_grad():
        assert counted.get() is not kept  # the step in between cleared the cache


@torch.inference_mode()
def test_sources_made_in_inference_mode_are_not_cached() -> None:
    counted = _Counted()
    counted.get()
    counted.table.add_(1)
    assert torch.equal(counted.get(), torch.ones(4))


@torch.no_grad()
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_adapter.layers.derived._MAX_BYTES", 40)
    counted = _Counted()  # 16 bytes each: two fit
    kept = [counted.get(key) for key in "abc"]
    assert counted.get("c") is kept[2] and counted.get("b") is kept[1]
    assert counted.get("a") is not kept[0]
    large = _Counted(rows=11)
    assert large.get() is not large.get()


@torch.no_grad()
def test_a_cuda_graph_computes_its_own_value(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = _Counted()
    kept = counted.get()
    monkeypatch.setattr("vit_adapter.layers.derived.is_captured", lambda tensor: True)
    assert counted.get() is not kept


@torch.no_grad()
def test_copies_start_empty() -> None:
    counted = _Counted()
    counted.get()
    for copied in (copy.deepcopy(counted), pickle.loads(pickle.dumps(counted))):
        assert torch.equal(copied.get(), counted.get())
        assert copied.computed == 2


@torch.no_grad()
def test_a_graph_that_holds_the_values_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = _Counted()
    kept = counted.get()
    monkeypatch.setattr("vit_adapter.layers.derived.is_captured", lambda tensor: True)
    with held_for_graph() as held:
        assert counted.get() is kept
    assert held == [kept]
    assert counted.get() is not kept


@torch.no_grad()
def test_all_sources_are_watched_and_several_tensors_are_kept() -> None:
    cache, sources = DerivedTensors(), [torch.ones(2), torch.ones(3)]

    def get() -> tuple[Tensor, ...]:
        return cache.get(sources, "merged", lambda: (torch.cat(sources), sources[1] + 1))

    assert get()[0] is get()[0]
    for source in sources:
        before = get()
        source.add_(1)
        assert get()[0] is not before[0]
    assert torch.equal(get()[1], torch.full((3,), 3.0))


def test_a_change_of_mode_forgets_all() -> None:
    module = DerivesTensors()
    module.weight = nn.Parameter(torch.zeros(2))
    with torch.no_grad():
        for _ in range(2):
            kept = module.derived.get([module.weight], "", lambda: module.weight + 1)
            module.weight.data.fill_(5)  # cannot be seen
            module.eval()
    assert torch.equal(kept, torch.full((2,), 6.0))
    assert not module.state_dict().keys() - {"weight"}
