"""Errors that end a tool with a message."""

import logging

import pytest

from vit_adapter.utils import command_line

logger = logging.getLogger("vit_adapter.some_tool")


@command_line.reports_errors(logger, OSError, ValueError)
def main(error: Exception | None = None, *, status: int = 0) -> int:
    """Run the command line."""
    if error is not None:
        raise error
    return status


@pytest.fixture(autouse=True)
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The loggers whose messages are printed."""
    names: list[str] = []
    monkeypatch.setattr(command_line, "setup_logger", lambda name: names.append(name))
    monkeypatch.setattr(logging.getLogger("vit_adapter"), "propagate", True)
    return names


def test_the_exit_status_is_that_of_the_tool(prepared: list[str]) -> None:
    assert main() == 0 and main(status=1) == 1
    assert prepared == ["vit_adapter"] * 2
    assert main.__doc__ == "Run the command line."


@pytest.mark.parametrize("error", [ValueError("mend 100 %"), FileNotFoundError("mend 100 %")])
def test_a_mistake_is_a_message(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert main(error) == 2
    assert caplog.record_tuples == [(logger.name, logging.ERROR, "mend 100 %")]


def test_other_errors_have_a_traceback() -> None:
    with pytest.raises(KeyError):
        main(KeyError("a bug"))
