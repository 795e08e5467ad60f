"""The table of figures, as plain text for a terminal or a log."""

from collections.abc import Mapping
from typing import Any

from mbn_jax.evaluation.protocols import EMBEDDED_PROTOCOLS

COLUMNS = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "rank20": "rank-20",
    "mAP": "mAP",
    "mINP": "mINP",
}
ROWS = {
    "last": "last step",
    "best": "best on validation",
    "untrained": "untrained network",
    "chance": "chance",
}
TITLES = {protocol.name: protocol.title for protocol in EMBEDDED_PROTOCOLS}


def row_title(row: str, figures: Mapping[str, Any]) -> str:
    """The name of a row with its step: "last step (600)"."""
    step = figures[row].get("step")
    title = ROWS.get(row, row)
    return title if step is None or row == "untrained" else f"{title} ({step})"


def format_table(results: Mapping[str, Any]) -> str:
    """All the figures of ``results.json`` in per cent, with the rules they follow.

    Args:
        results: as `mbn_jax.evaluation.make_results` returns it.

    Returns:
        Lines of at most 88 characters, except for the sentences on the rules.
    """
    figures = results["figures"]
    names = {row: row_title(row, figures) for row in figures}
    width = max(map(len, names.values()))
    lines = [f"{results['dataset']}, {results['split']} split; figures in per cent"]
    for direction, description in results["protocols"].items():
        counts = next(iter(figures.values()))[direction]
        lines += [
            "",
            f"{TITLES.get(direction, direction)}: {counts['num_valid_queries']} of "
            f"{counts['num_queries']} queries scored, "
            f"{counts['gallery_size']} gallery images",
            " " * width + "".join(f"{title:>9}" for title in COLUMNS.values()),
        ]
        for row, name in names.items():
            values = (100 * figures[row][direction][key] for key in COLUMNS)
            lines.append(f"{name:<{width}}" + "".join(f"{v:9.1f}" for v in values))
        lines.append(description)
    lines += ["", f"Best on validation: {results['selection']}"]
    return "\n".join(lines)
