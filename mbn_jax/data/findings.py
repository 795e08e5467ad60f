"""The problems and warnings that a check of a data set finds, and their report."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import NamedTuple

import rich.console
import rich.table

from mbn_jax.text import one_line, terminal_of

# Of each kind; a folder that was not copied would otherwise fill the screen.
_SHOWN = 20
# All findings of this kind are shown, however many there are.
MISSING = "missing folders and files"


class Finding(NamedTuple):
    """A problem or a warning."""

    kind: str  # what several of them are called, for example "unreadable images"
    sentence: str  # names the file, the line or the folder and says what to do


class Count(NamedTuple):
    """A number that is published, and the number found in this copy."""

    what: str  # for example "train images of cam3"
    expected: int
    found: int


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a check has found so far.

    Attributes:
        problems: what has to be fixed before the data set can be used.
        warnings: what is left out or unusual.
        counts: published numbers and those found.
    """

    problems: list[Finding] = dataclasses.field(default_factory=list)
    warnings: list[Finding] = dataclasses.field(default_factory=list)
    counts: list[Count] = dataclasses.field(default_factory=list)

    def problem(self, kind: str, sentence: str) -> None:
        """Adds a problem, which has to be fixed."""
        self.problems.append(Finding(kind, sentence))

    def warning(self, kind: str, sentence: str) -> None:
        """Adds a warning, which the user should know."""
        self.warnings.append(Finding(kind, sentence))

    def count(self, what: str, expected: int, found: int) -> None:
        """Adds a published number and the number that was found."""
        self.counts.append(Count(what, expected, int(found)))

    def report(self) -> None:
        """Prints warnings, counts that differ and problems on standard error."""
        _print("warning", self.warnings)
        _print_counts([c for c in self.counts if c.expected != c.found])
        _print("problem", self.problems)


def some(values: Sequence[object], limit: int = 10) -> str:
    """Returns the first few of some values, to show in a sentence."""
    shown = ", ".join(map(str, values[:limit]))
    return shown + (", …" if len(values) > limit else "")


def _print(level: str, findings: Sequence[Finding]) -> None:
    """Prints the findings by kind, in the order in which the kinds first appear."""
    by_kind: dict[str, list[str]] = {}
    for kind, sentence in findings:
        by_kind.setdefault(kind, []).append(sentence)
    for kind, sentences in by_kind.items():
        shown = len(sentences) if kind == MISSING else _SHOWN
        for sentence in sentences[:shown]:
            print(f"{level}: {one_line(sentence)}", file=sys.stderr)
        if len(sentences) > shown:
            more = len(sentences) - shown
            print(f"{level}: … and {more:,} more: {kind}.", file=sys.stderr)


def _print_counts(counts: Sequence[Count]) -> None:
    if not counts:
        return
    print(
        "warning: These numbers are not those of the complete data set; metrics"
        " obtained on it are not comparable with published ones.",
        file=sys.stderr,
    )
    table = rich.table.Table(box=None)
    table.add_column("")
    table.add_column("expected", justify="right")
    table.add_column("found", justify="right")
    for what, expected, found in counts:
        table.add_row(one_line(what), f"{expected:,}", f"{found:,}")
    # As wide as it needs, in a log file, too.
    console = rich.console.Console(file=terminal_of(sys.stderr), width=80, markup=False)
    console.print(table)
