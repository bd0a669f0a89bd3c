"""The report of a dry run: what is printed, stored and collected."""

import json
import logging
from pathlib import Path

import pytest

from vit_adapter.engine.dry_run.report import Report, collect_warnings, in_words


def test_sections_are_printed_and_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report()
    report.add_section("run", "Run", {"batch": 4}, [("batch", "4 images")])
    report.add_section(("data", "a.b"), "Data", {"images": 2}, [("images", "2")])
    assert "Run\n  batch  4 images\n" in capsys.readouterr().out
    report.warnings.append("Careful.")
    report.print_end()
    assert capsys.readouterr().out == "\nWarnings\n- Careful.\n\nReady to train.\n"
    content = json.loads(report.write(tmp_path).read_text())
    assert content == {
        "ready": True,
        "problems": [],
        "warnings": ["Careful."],
        "run": {"batch": 4},
        "data": {"a.b": {"images": 2}},
    }


def test_problems_make_it_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.problems.append("A file is broken.")
    report.print_end()
    shown = capsys.readouterr().out
    assert "Problems\n- A file is broken.\n" in shown and "Not ready to train" in shown
    assert not report.is_ready


def test_warnings_are_collected_once() -> None:
    report = Report()
    logger = logging.getLogger("vit_adapter.data.checks")
    parent = logging.getLogger("vit_adapter")
    before = parent.handlers, parent.level, parent.propagate
    with collect_warnings(report):
        logger.info("Not this.")
        logger.warning("%d images are odd.", 3)
        logger.warning("%d images are odd.", 3)
        logging.getLogger("detectron2.data").warning("Another.")
    logger.warning("Not any more.")
    assert report.warnings == ["3 images are odd.", "Another."]
    assert (parent.handlers, parent.level, parent.propagate) == before


def test_bytes_in_words() -> None:
    assert in_words(3 * 2**19) == "1.5 MiB"
    assert in_words(2500 * 2**30) == "2,500.0 GiB"
