"""The switch of the CPU's fast paths, and the reason given for those that are off."""

from collections.abc import Iterator

import pytest
import torch

from vit_adapter.ops import cpu_fast_paths, extension_info
from vit_adapter.ops.cpu_fast_paths import PRIVATE_NAMES, is_on
from vit_adapter.ops.exporting import exporting


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor on which every fast path saves time, and paths that need no private names."""
    cpu_fast_paths._find_obstacle.cache_clear()
    monkeypatch.setattr(cpu_fast_paths, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(cpu_fast_paths, "channels_last_trains_slowly", lambda: True)
    for name in PRIVATE_NAMES:
        monkeypatch.setitem(PRIVATE_NAMES, name, ())
    yield
    cpu_fast_paths._find_obstacle.cache_clear()


def test_all_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "1"):
        if value is not None:
            monkeypatch.setenv("VIT_ADAPTER_CPU_FAST_PATHS", value)
        assert extension_info()["cpu_fast_paths"] == dict.fromkeys(PRIVATE_NAMES, "on")
        assert all(map(is_on, PRIVATE_NAMES))


@pytest.mark.parametrize("value", ["0", ""])
def test_one_switch_turns_all_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_ADAPTER_CPU_FAST_PATHS", value)
    reason = f"off: VIT_ADAPTER_CPU_FAST_PATHS={value}"
    assert extension_info()["cpu_fast_paths"] == dict.fromkeys(PRIVATE_NAMES, reason)
    assert not any(map(is_on, PRIVATE_NAMES))


def test_all_are_off_while_exporting() -> None:
    with exporting():
        assert not any(map(is_on, PRIVATE_NAMES))
    assert all(map(is_on, PRIVATE_NAMES))


@pytest.mark.parametrize("missing", ["torch._C._absent", "torch.ops.aten._absent", "torch._a.b"])
def test_a_missing_private_name_turns_its_path_off(missing: str, monkeypatch) -> None:
    there = "torch.ops.aten.add"
    monkeypatch.setitem(PRIVATE_NAMES, "attention", (there, missing))
    paths = extension_info()["cpu_fast_paths"]
    assert paths.pop("attention") == f"off: torch {torch.__version__} has no {missing}"
    assert set(paths.values()) == {"on"}


def test_linear_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_fast_paths, "onednn_is_faster", lambda: False)
    paths = extension_info()["cpu_fast_paths"]
    assert (
        paths.pop("linear") == "off: oneDNN is faster than MKL only on AMD processors with AVX-512"
    )
    assert set(paths.values()) == {"on"}


def test_convolution_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_fast_paths, "channels_last_trains_slowly", lambda: False)
    paths = extension_info()["cpu_fast_paths"]
    assert (
        paths.pop("convolution") == "off: oneDNN trains slowly on channels-last maps only with AVX2"
    )
    assert set(paths.values()) == {"on"}
