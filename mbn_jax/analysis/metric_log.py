"""``metrics.jsonl``: an object with ``step`` and numbers in every line."""

import sys
from pathlib import Path
from typing import Any

from mbn_jax.errors import InputError
from mbn_jax.files import parse_json, read_bytes


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` by step, each step and kind once.

    A run that was killed and resumed repeats steps, and what it wrote last counts. It
    may also have been killed in the middle of a line, which then has no end and is left
    out. Other lines that are damaged are left out with a warning on standard error:
    curves lack points then, but the run's checkpoints are whole.

    Args:
        path: of the file; without it there are no lines.

    Raises:
        InputError: the file cannot be read at all.
    """
    if not path.exists():
        return []
    *whole, torn = read_bytes(path).split(b"\n")
    lines: dict[tuple[int, bool], dict[str, Any]] = {}
    damaged = []
    for number, text in enumerate([*whole, torn], start=1):
        try:
            line = _parse(text)
        except InputError:
            damaged.append(number)
            continue
        validation = any(key.startswith("val/") for key in line)
        lines[line["step"], validation] = line
    if len(whole) + 1 in damaged:
        damaged.pop()
    if damaged:
        print(
            f"warning: {path}: {len(damaged)} of {len(whole)} lines, the first of them "
            f"line {damaged[0]}, are damaged and left out.",
            file=sys.stderr,
        )
    return [lines[key] for key in sorted(lines)]


def _parse(text: bytes) -> dict[str, Any]:
    line = parse_json(text, "the line")
    step = line.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise InputError("the line has no step")
    if not all(isinstance(value, int | float) for value in line.values()):
        raise InputError("the line has something else than numbers")
    return line
