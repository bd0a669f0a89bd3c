"""The demo tool with a fake model."""

import logging

import pytest
from demo_tool import CONFIG, FakePredictor
from tool_files import load_tool


@pytest.fixture(scope="module")
def demo_module():
    return load_tool("demo")


@pytest.fixture
def demo(demo_module, monkeypatch, caplog):
    """The tool's main function with a fake model; ``caplog`` gets the messages."""
    monkeypatch.setattr(demo_module, "LazyPredictor", FakePredictor)
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    log = logging.getLogger("vit_adapter.demo")
    monkeypatch.setattr(log, "level", logging.INFO)
    monkeypatch.setattr(log, "propagate", False)
    log.addHandler(caplog.handler)
    yield lambda *arguments: demo_module.main(["--config-file", CONFIG, *map(str, arguments)])
    log.removeHandler(caplog.handler)
