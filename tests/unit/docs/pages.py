"""The documentation as its readers see it: pages and the code in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
PROJECT = ROOT / "projects" / "ViTAdapter"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    PROJECT / "README.md",
    *sorted((PROJECT / "docs").glob("*.md")),
]
SHELL = ("sh", "bash")


class Snippet(NamedTuple):
    """A fenced block: where it is, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(*languages: str) -> list[Snippet]:
    """All blocks in some languages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Snippet(page, line, match[1], match[2]))
    return [snippet for snippet in found if snippet.language in languages]


def code_spans() -> dict[str, list[str]]:
    """What stands in backquotes in the running text and in tables -> the pages that have it."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        for span in re.findall(r"`([^`]+)`", text):
            found.setdefault(" ".join(span.split()), []).append(page.name)
    return found
