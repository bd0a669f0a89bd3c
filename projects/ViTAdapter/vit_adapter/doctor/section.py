"""What a check reports: facts, and findings with their remedies."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["Finding", "Options", "Section"]


class Options(NamedTuple):
    """What the command line sets.

    Attributes:
        output: folder that trainings would write to.
    """

    output: str = "output"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or may be.

    Attributes:
        kind: a "fault" has to be fixed; with a "warning" the project works, but less well.
        what: one or two sentences.
        fix: a command, or what to do.
        traceback: of an unexpected exception, or the last output of a process that ended.
    """

    kind: Literal["fault", "warning"]
    what: str
    fix: str
    traceback: str = ""


@dataclass
class Section:
    """The result of a check.

    Attributes:
        facts: name -> text, number, list or dict, shown and stored as they are.
        findings: in the order in which they were found.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def fault(self, what: str, fix: str, traceback: str = "") -> None:
        """Add a fault."""
        self.findings.append(Finding("fault", what, fix, traceback))

    def warn(self, what: str, fix: str) -> None:
        """Add a warning."""
        self.findings.append(Finding("warning", what, fix))
