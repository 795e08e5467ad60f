"""Tables of metrics, as plain text for a terminal or a log."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mbn_jax.evaluation.distances import DISTANCE_TITLES
from mbn_jax.evaluation.metrics import REPORTED_RANKS

COLUMNS = {f"rank{k}": f"rank-{k}" for k in REPORTED_RANKS}
COLUMNS |= {"mAP": "mAP", "mINP": "mINP"}
ROWS = {
    "last": "last step",
    "best": "best on validation",
    "untrained": "untrained network",
    "chance": "chance",
}


def row_title(row: str, figures: Mapping[str, Any]) -> str:
    """The name of a row with its step: "last step (600)"."""
    step = figures[row].get("step")
    title = ROWS.get(row, row)
    return title if step is None or row == "untrained" else f"{title} ({step})"


def cells(figures: Mapping[str, Any]) -> list[str]:
    """The columns of one row in percent: "47.5", or "47.5 ± 1.2" over trials.

    The second number is the standard deviation over the trials, with n - 1.

    Args:
        figures: metrics by one protocol, as `mbn_jax.evaluation.evaluate` returns them.
    """
    trials = figures.get("trials", ())
    if len(trials) < 2:
        return [f"{100 * figures[key]:.1f}" for key in COLUMNS]
    spread = {key: np.std([trial[key] for trial in trials], ddof=1) for key in COLUMNS}
    return [f"{100 * figures[key]:.1f} ± {100 * spread[key]:.1f}" for key in COLUMNS]


def counts(figures: Mapping[str, Any]) -> str:
    """How much was scored, in words."""
    trials = len(figures.get("trials", ()))
    what = "splits" if "splits" in figures else "trials"
    over = f"; mean ± standard deviation over {trials} {what}" if trials > 1 else ""
    return (
        f"{figures['num_valid_queries']:.12g} of {figures['num_queries']:.12g} queries "
        f"scored, {figures['gallery_size']:.12g} gallery images{over}"
    )


def format_block(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A heading of columns, and a line for each row.

    Args:
        rows: metrics as for `cells`, by the name of the row.
    """
    lines = {name: cells(figures) for name, figures in rows.items()}
    width = max(map(len, lines))
    column = max(8, *(len(cell) for line in lines.values() for cell in line)) + 1
    heading = " " * width + "".join(f"{title:>{column}}" for title in COLUMNS.values())
    return [heading] + [
        f"{name:<{width}}" + "".join(f"{cell:>{column}}" for cell in line)
        for name, line in lines.items()
    ]


def format_table(results: Mapping[str, Any]) -> str:
    """All metrics of `results.json` in percent, with the rules they follow.

    Args:
        results: as `mbn_jax.evaluation.make_results` returns it.

    Returns:
        Lines of at most 88 characters, except for the sentences on the rules.
    """
    figures = results["figures"]
    lines = [f"{results['dataset']}, {results['split']} split; metrics in percent"]
    for name, protocol in results["protocols"].items():
        some = next(iter(figures.values()))[name]
        rows = {row_title(row, figures): figures[row][name] for row in figures}
        lines += [
            "",
            f"{protocol['title']}: {counts(some)}",
            *format_block(rows),
            protocol["description"],
        ]
        if protocol["note"]:
            lines.append(f"warning: {protocol['note']}")
    return "\n".join([*lines, "", results["selection"]])


def format_evaluation(result: Mapping[str, Any], *, as_json: bool = False) -> str:
    """A table of one protocol for a terminal, or JSON.

    Args:
        result: as `mbn_jax.evaluation.results.evaluate_protocol` returns it.
        as_json: whether to return the whole result as one JSON object instead.
    """
    if as_json:
        return json.dumps(result, indent=2)
    return "\n".join(
        [
            f"{result['source']}: {result['title']}, "
            f"{DISTANCE_TITLES[result['distance']]}",
            f"{counts(result)}; in percent",
            "",
            *format_block({"": result}),
            "",
            result["description"],
        ]
    )
