"""Caches that threads share."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from timm.layers import RotaryEmbeddingCat
from torch import nn

from vit_adapter.backbone.timm_vit.families import EvaFamily
from vit_adapter.layers.derived import DerivedTensors
from vit_adapter.layers.pyramid import inverse_grid_sizes, reference_points


@pytest.fixture(autouse=True)
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(function, arguments):
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(function, arguments))


def test_constants_that_displace_each_other():
    options = dict(device=torch.device("cpu"), dtype=torch.float32)
    sides = [1 + index % 97 for index in range(1500)]  # more than are kept
    found = in_threads(lambda side: inverse_grid_sizes([(side, 2 * side)], **options), sides)
    assert all(
        size[0, 1].item() == pytest.approx(1 / k) for k, size in zip(sides, found, strict=True)
    )
    in_threads(lambda side: reference_points([(side % 5 + 1, 2)], **options), sides)


@torch.no_grad()
def test_biases_of_a_table_that_is_replaced():
    cache, tables = DerivedTensors(), [torch.full((3,), float(k)) for k in range(4)]

    def bias(index):
        table = tables[index % 4]
        return cache.get([table], index % 3, lambda: table * 2)[0].item()

    assert in_threads(torch.no_grad()(bias), range(2000)) == [2.0 * (k % 4) for k in range(2000)]


class ClearedByAnother(dict):
    """As if another thread cleared it between a look for a key and the next step."""

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        self.clear()
        return found


def test_rotary_positions_that_another_thread_clears():
    model, family = nn.Module(), EvaFamily()
    model.rope = RotaryEmbeddingCat(8)
    family._fixed = ClearedByAnother()
    positions = family.positions(model, (2, 3))
    assert family.positions(model, (2, 3)) is positions
