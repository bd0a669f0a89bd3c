"""What the tests of the doctor share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from vit_adapter.ops import extension
from vit_adapter.ops.extension import load_extension


@pytest.fixture
def fake_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A function that makes the extension another module, or makes its import fail."""

    def replace(result: object) -> None:
        def import_module(name: str) -> object:
            if isinstance(result, Exception):
                raise result
            return result

        # Not `importlib.import_module` itself, which the doctor uses, too.
        monkeypatch.setattr(extension, "importlib", SimpleNamespace(import_module=import_module))
        load_extension.cache_clear()

    with warnings.catch_warnings():
        yield replace
    monkeypatch.undo()
    load_extension.cache_clear()
