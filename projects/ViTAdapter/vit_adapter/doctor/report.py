"""The report of the doctor, as text and as JSON."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict

from vit_adapter.doctor.checks import CHECKS
from vit_adapter.doctor.section import Finding, Section

__all__ = ["conclusion", "is_fine", "to_json", "to_text"]


def to_text(name: str, section: Section) -> str:
    """Return the facts of a check, and its findings with what fixes them."""
    lines = [CHECKS[name].title, *_format_facts(section.facts, indent=2)]
    for finding in section.findings:
        lines.append(textwrap.indent(f"{finding.kind.upper()}: {finding.what}", "  "))
        fix = textwrap.indent(finding.fix, 7 * " ").strip()
        lines.append(f"  Fix: {fix}")
    return "\n".join(lines) + "\n"


def to_json(sections: Mapping[str, Section]) -> str:
    """Return everything, with tracebacks."""
    content = {"fine": is_fine(sections), **{name: asdict(s) for name, s in sections.items()}}
    return json.dumps(content, indent=2, ensure_ascii=False)


def conclusion(sections: Mapping[str, Section]) -> str:
    """Return the last lines of the text."""
    findings = _findings(sections)
    faults = sum(finding.kind == "fault" for finding in findings)
    warnings = len(findings) - faults
    counts = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((faults, "fault"), (warnings, "warning"))
        if count
    ]
    if not counts:
        return "Everything works."
    ending = "" if faults else " Everything works, but not as well as it could."
    return f"{' and '.join(counts)} found; the fixes are above.{ending}"


def is_fine(sections: Mapping[str, Section]) -> bool:
    """Whether no check found a fault."""
    return not any(finding.kind == "fault" for finding in _findings(sections))


def _findings(sections: Mapping[str, Section]) -> list[Finding]:
    """Return the findings of all checks."""
    return [finding for section in sections.values() for finding in section.findings]


def _format_facts(facts: Mapping[str, object], *, indent: int) -> list[str]:
    """Return one line per fact, aligned, with nested ones below their name."""
    lines = []
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines.append(f"{' ' * indent}{name}{'' if value else ': none'}")
            lines += _format_facts(value, indent=indent + 2)
            continue
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        lines.append(f"{' ' * indent}{name:<{width}}  {value if value != '' else 'none'}")
    return lines
