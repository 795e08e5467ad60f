"""What all benchmarks print: what they ran on, and tables in Markdown."""

import datetime
import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import rich.progress

track = partial(rich.progress.track, transient=True, disable=not sys.stderr.isatty())


def machine_line(*packages: str, device: str = "") -> str:
    """The device, the date, the versions of Python and of packages, and the load.

    Args:
      packages: names of installed distributions.
      device: what computes, if it is not the processor.
    """
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    python = f"Python {platform.python_version()}"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    return ", ".join(
        [device or _processor(), str(datetime.date.today()), python, *versions, load]
    )


def _processor() -> str:
    """The name of the processor, and how many cores of it this process may use."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    if not names:
        return platform.processor()
    return f"{len(os.sched_getaffinity(0))} cores of {names[0]}"


def spread(values: Sequence[float], digits: int = 2, unit: float = 1) -> str:
    """Median and range, in multiples of a unit."""
    middle, low, high = (
        f"{f(values) / unit:,.{digits}f}" for f in (statistics.median, min, max)
    )
    return f"{middle} ({low}–{high})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median and range of the ratios of each round, which drift does not affect."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def print_table(titles: str, rows: Iterable[Sequence[object]]) -> None:
    """Prints rows as they come, under titles that are separated by "|"."""
    print(f"\n| {' | '.join(titles.split('|'))} |")
    print("|---" * len(titles.split("|")) + "|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |".replace("nan", "–"), flush=True)
