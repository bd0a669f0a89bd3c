"""``web_demo.py``: its command line. The page is a stand-in that needs no Gradio."""

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tool_files import load_tool

CONFIG = "quick_start/mask_rcnn_vit_adapter_shapes"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_tool("web_demo")
    # It hides messages from caplog.
    monkeypatch.setattr("vit_adapter.utils.command_line.setup_logger", lambda name: None)
    return module


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page was made with and launched with."""
    seen = {}

    class Page:
        def __init__(self, models: Any, **arguments: Any) -> None:
            seen.update(arguments, models=models.names)

        def launch(self, **arguments: Any) -> str:
            seen.update(arguments)
            return "http://127.0.0.1:1234/"

        def wait(self) -> None:
            seen["waited"] = True

    monkeypatch.setitem(sys.modules, "vit_adapter.web.page", SimpleNamespace(Page=Page))
    return seen


def test_it_serves_all_models_to_this_machine_alone(
    tool: ModuleType, seen: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.yaml").write_text("model: {}")
    (tmp_path / "model_final.pth").touch()
    caplog.set_level(logging.INFO, "vit_adapter.web_demo")
    assert tool.main([str(tmp_path), "--model", CONFIG, "model.pth"]) == 0
    assert seen["models"] == [str(tmp_path), f"{CONFIG} (model.pth)"]
    assert (seen["host"], seen["port"]) == ("127.0.0.1", 7860)
    assert (seen["max_megabytes"], seen["max_megapixels"]) == (20, 16)
    assert seen["waited"]
    assert "The page is at http://127.0.0.1:1234/" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model is given; give at least one folder, or --model"),
        (["no/such/folder"], "no/such/folder"),
        (["--model", CONFIG, "a.pth", "--keep", "0"], "keep at least 1"),
        (["--model", CONFIG, "a.pth", "--opts", "nothing=1"], "nothing"),
    ],
)
def test_mistakes_end_it_with_a_message(
    tool: ModuleType,
    seen: dict[str, Any],
    arguments: list[str],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert tool.main(arguments) == 2
    assert message in caplog.text and not seen


def test_without_gradio_it_says_what_to_install(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "vit_adapter.web.page", raising=False)
    assert tool.main(["--model", CONFIG, "model.pth"]) == 2
    assert "pip install gradio" in caplog.text
