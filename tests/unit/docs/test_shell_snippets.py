"""The commands of the documentation: bash runs them with stand-ins for the programs.

A stand-in records how it was called, so loops, functions and variables are expanded as for a user.
The arguments are then read by the real programs' parsers, and configs and overrides are loaded.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from pages import PROJECT, ROOT, SHELL, Snippet, code_spans, snippets

from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import resolve_config
from vit_adapter.config.overrides import apply_overrides

PROGRAMS = ("python", "pip", "make", "pytest", "torchrun", "srun", "taskset", "scontrol", "trtexec")
STAND_IN = """#!/bin/bash
printf '%s\\x1f' "$(basename "$0")" "$@" >> "$RECORD"
printf '\\x1e' >> "$RECORD"
"""
OPEN = re.compile(r"<[^>\n]+>")  # to be filled in by the reader
GENERAL = "quick_start/mask_rcnn_vit_adapter_shapes"
# Overrides in the text concern one or the other of these.
KINDS = (
    GENERAL,
    "quick_start/mask_rcnn_vit_adapter_small_dinov2",
    "coco/htc_vit_adapter_large_augreg_3x",
    "coco/mask_rcnn_vit_adapter_large_dinov3_3x",
    "ade20k/upernet_vit_adapter_large_beit_640_160k_ss",
    "quick_start/upernet_vit_adapter_tiny_scratch",
    "quick_start/mask2former_vit_adapter_small_dinov2",
    "quick_start/mask2former_panoptic_vit_adapter_small_dinov2",
    "quick_start/atss_vit_adapter_tiny_scratch",
)
CHOSEN = (
    "",
    "output",
    "output/five",
    "CONFIG",
    "nuclei_model",
)  # configs and folders of the reader
GROUPS = ("data", "dataloader", "lr_multiplier", "model", "optimizer", "test", "train")
OVERRIDE = re.compile(rf"({'|'.join(GROUPS)})(\.\w+)+=\S*")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


class Parsed(BaseException):
    """Ends a program once it has read its command line; no program catches it."""


def record(snippet: Snippet, folder: Path) -> list[list[str]]:
    """Run a block with stand-ins; return the program and the arguments of each call."""
    programs = folder / "bin"
    programs.mkdir()
    tools = folder / "projects" / "ViTAdapter" / "tools"
    tools.mkdir(parents=True)
    scripts = (tools / name for name in ("gpu_report.sh", "gpu_bundle.sh"))
    for path in (*(programs / name for name in PROGRAMS), *scripts):
        path.write_text(STAND_IN)
        path.chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "RECORD": str(folder / "record")}
    result = subprocess.run(
        ["bash", "-e", "-c", OPEN.sub("OPEN", snippet.text)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode in (0, 1), result.stderr  # 1: `[ ... ] && ...` as the last command
    assert result.stderr == ""
    calls = (folder / "record").read_text().split("\x1e")
    return [call.split("\x1f")[:-1] for call in calls if call]


def read_command_line(program: Path, arguments: list[str], monkeypatch) -> argparse.Namespace:
    """Let a program read its arguments, and stop it then."""
    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def stop(self, *args, parse=parse, **options) -> None:
            raise Parsed(parse(self, *args, **options))

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    monkeypatch.setattr(sys, "argv", [str(program), *arguments])
    monkeypatch.syspath_prepend(str(program.parent))
    with pytest.raises(Parsed) as stopped:
        runpy.run_path(str(program), run_name="__main__")
    return stopped.value.args[0]


load = cache(resolve_config)


def check_config(name: str, overrides: Sequence[str]) -> None:
    """Apply overrides to a config, or to one of every kind if the reader has to choose it."""
    known = name not in CHOSEN and "OPEN" not in name
    problems = []
    for candidate in [name] if known else KINDS:
        try:
            apply_overrides(deepcopy(load(candidate)), overrides)
        except UsageError as error:
            problems.append(str(error))
        else:
            return
    raise UsageError(problems[0])


@pytest.mark.parametrize("snippet", snippets(*SHELL), ids=lambda snippet: snippet.name)
def test_commands(snippet, tmp_path, monkeypatch):
    calls = record(snippet, tmp_path)
    assert calls
    monkeypatch.chdir(ROOT)
    seen = set()
    for program, *arguments in calls:
        check_targets(program, arguments)
        scripts = [word for word in arguments if word.endswith(".py")]
        if program == "pytest" or not scripts or "OPEN" in arguments:
            continue
        words = [word for word in arguments[arguments.index(scripts[0]) :] if word != "..."]
        # Calls of a loop that differ in values, such as seeds and folders, need one check only.
        keys = tuple(word.partition("=")[0] for word in words)
        if keys in seen:
            continue
        seen.add(keys)
        with monkeypatch.context() as patch:
            options = read_command_line(ROOT / words[0], words[1:], patch)
        if hasattr(options, "config_file"):
            check_config(options.config_file, options.overrides)


def check_targets(program: str, arguments: list[str]) -> None:
    """Whether targets of make, or tests, exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in arguments:
        if program == "make" and "=" not in word:
            assert re.search(rf"^{word}:", makefile, re.MULTILINE), word
        elif program == "pytest" and word.startswith("tests/"):
            assert (ROOT / word).exists(), word


def overrides_in_text() -> list[str]:
    """The overrides in the running text whose value is given."""
    words = [word for span in code_spans() for word in span.split()]
    return sorted({word for word in words if OVERRIDE.fullmatch(word) and "..." not in word})


@pytest.mark.parametrize("override", overrides_in_text())
def test_overrides_in_the_text(override):
    check_config("", [re.sub("=N$", "=2", OPEN.sub("OPEN", override))])


def test_the_files_that_are_named_exist():
    """Paths in backquotes."""
    named = {
        span
        for span in code_spans()
        if re.fullmatch(r"(projects|configs|csrc|tests|tools|docs)/[\w/.-]+\.\w+", span)
    }
    assert len(named) > 10
    missing = {name for name in named if not (ROOT / name).exists() | (PROJECT / name).exists()}
    assert missing <= {"projects/ViTAdapter/vit_adapter/build_report.txt"}  # of a failed build
