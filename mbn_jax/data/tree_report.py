"""What was found in a tree, in words."""

import itertools
import sys
from collections.abc import Sequence

import numpy as np
import rich.console
import rich.table

from mbn_jax.data.tree import Count, Finding, Tree
from mbn_jax.data.walk import MISSING
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import VISIBLE

# Of each kind; a folder that was not copied would otherwise fill the screen.
_SHOWN = 20


def report(tree: Tree) -> None:
    """Prints the splits, warnings and problems of a tree on standard error."""
    for split, records in tree.splits.items():
        visible = np.count_nonzero(records.modality == VISIBLE)
        print(
            f"{split}: {len(records):,} images of {len(np.unique(records.identity)):,}"
            f" identities, {visible:,} visible and {len(records) - visible:,} infrared",
            file=sys.stderr,
        )
    _print("warning", tree.warnings)
    _print_counts([count for count in tree.counts if count.expected != count.found])
    _print("problem", tree.problems)


def refuse_problems(tree: Tree) -> None:
    """Ends the work on a tree in which something has to be mended.

    Raises:
        InputError: there are problems; says the first, and how many there are.
    """
    if tree.problems:
        more = len(tree.problems) - 1
        others = f" There are {more} more problems." if more else ""
        raise InputError(f"{tree.problems[0].sentence}{others}")


def _print(level: str, findings: Sequence[Finding]) -> None:
    """Groups the findings by kind, in the order in which the kinds first appear."""
    kinds = list(dict.fromkeys(finding.kind for finding in findings))
    by_kind = sorted(findings, key=lambda finding: kinds.index(finding.kind))
    for kind, group in itertools.groupby(by_kind, key=lambda finding: finding.kind):
        sentences = [finding.sentence for finding in group]
        shown = len(sentences) if kind == MISSING else _SHOWN
        for sentence in sentences[:shown]:
            print(f"{level}: {sentence}", file=sys.stderr)
        if len(sentences) > shown:
            more = len(sentences) - shown
            print(f"{level}: … and {more:,} more: {kind}.", file=sys.stderr)


def _print_counts(counts: Sequence[Count]) -> None:
    if not counts:
        return
    print(
        "warning: These numbers are not those of the complete data set; figures"
        " obtained on it are not comparable with published ones.",
        file=sys.stderr,
    )
    table = rich.table.Table(box=None)
    table.add_column("")
    table.add_column("expected", justify="right")
    table.add_column("found", justify="right")
    for count in counts:
        table.add_row(count.what, f"{count.expected:,}", f"{count.found:,}")
    # As wide as it needs, in a log file, too.
    rich.console.Console(file=sys.stderr, width=80).print(table)
