"""Charts over steps and ranks, and the reader of metrics.jsonl."""

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.analysis import charts
from mbn_jax.errors import InputError
from mbn_jax.files import parse_json, read_bytes

# x and y, (n,) each, and arguments of `Axes.plot`.
Line = tuple[np.ndarray, np.ndarray, dict[str, Any]]

_MOST_INSIDE = 5  # labels of a legend that leaves room for the lines
_MOST_POINTS = 800
_NUM_MARKERS = 8  # of a line


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the lines of `metrics.jsonl` in the order of their steps.

    A run that was killed and resumed repeats steps: the last line of a step and kind
    counts. A last line without an end was torn off by the kill and is left out. Other
    damaged lines are left out with a warning on standard error, because the curves only
    lack some points then, and the run's checkpoints are whole.

    Args:
        path: The file. If it does not exist, there are no lines.

    Raises:
        InputError: The file cannot be read at all.
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
        raise InputError("the line has values that are not numbers")
    return line


def series(
    lines: Sequence[Mapping[str, Any]], key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values, (n,) each, of the lines that have the key."""
    points = [(line["step"], line[key]) for line in lines if key in line]
    steps, values = np.array(points, float).reshape(-1, 2).T
    return steps, values


def line_chart(
    title: str,
    x: str,
    y: str,
    lines: Sequence[Line],
    *,
    smooth: bool = False,
    top: float | None = None,
    best_step: int | None = None,
) -> list[str]:
    """Draws lines into one chart, an `<svg>` element; without points there is none.

    Args:
        title: The title.
        x: Name of the axis.
        y: Name of the axis, which begins at 0.
        lines: Where they are, and how they look.
        smooth: Whether to draw values faintly, and their moving average clearly.
        top: Upper end of the y axis; None for one that fits.
        best_step: Where to draw a vertical line; None for no such line.
    """
    lines = [line for line in lines if len(line[0])]
    if not lines:
        return []
    figure, axes = charts.chart(title, x, y)
    for steps, values, style in lines:
        if smooth:
            steps, values = _averaged(steps, values)
            axes.plot(steps, values, color=style["color"], alpha=0.3, lw=1)
            values, style = _moving_average(values), {"lw": 2, **style}
        every = max(1, len(steps) // _NUM_MARKERS)
        axes.plot(steps, values, **{"markevery": every, **style})
    if best_step is not None:
        axes.axvline(
            best_step, color=charts.GRAY, ls=":", label=f"best: step {best_step}"
        )
    axes.margins(x=0.02)
    axes.set_ylim(0, top)
    num_labels = len(axes.get_legend_handles_labels()[0])
    if num_labels > _MOST_INSIDE:
        charts.add_legend(figure, loc="outside lower left", ncols=2)
        figure.set_figheight(figure.get_figheight() + 0.08 * num_labels)
    elif num_labels:
        charts.add_legend(axes)
    return [charts.svg(figure)]


def _averaged(*arrays: np.ndarray) -> list[np.ndarray]:
    """Averages neighbors, because all steps of a long run would fill megabytes."""
    count = len(arrays[0])
    edges = np.linspace(0, count, min(_MOST_POINTS, count), endpoint=False).astype(int)
    sizes = np.diff(np.append(edges, count))
    return [np.add.reduceat(array, edges) / sizes for array in arrays]


def _moving_average(values: np.ndarray) -> np.ndarray:
    width = max(1, len(values) // 40)
    window = np.ones(2 * width + 1)
    sums = np.convolve(values, window, "full")[width:-width]
    # Divided by the number of values that a window holds, so that the ends are right.
    return sums / np.convolve(np.ones(len(values)), window, "full")[width:-width]


def training_curves(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draws the losses and the accuracy in the lines from `read_metrics`."""
    names = {key for line in lines for key in line if key.endswith("_loss")}
    losses = []
    for name, color in zip(["loss", *sorted(names)], charts.SERIES, strict=False):
        label = name.removesuffix("_loss").replace("_", " ")
        style = {"color": color, "label": "total" if name == "loss" else label}
        losses.append((*series(lines, name), style))
    loss = line_chart("Training loss", "step", "loss", losses, smooth=True)
    steps, values = series(lines, "accuracy")
    accuracy = [(steps, 100 * values, {"color": charts.BLUE})]
    title, unit = "Training accuracy", "right identity, %"
    return loss + line_chart(title, "step", unit, accuracy, smooth=True, top=101)


def validation_curve(
    lines: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
    best_step: int | None,
) -> list[str]:
    """Draws validation mAP by each protocol, with the step that was kept as best.

    Args:
        lines: From `read_metrics`.
        titles: Titles of the protocols, by their names.
        best_step: None if there was no validation.
    """
    looks = itertools.cycle(itertools.product(("-", "--", ":"), charts.SERIES))
    drawn = []
    for (name, title), (line, color) in zip(titles.items(), looks, strict=False):
        steps, values = series(lines, f"val/{name}/mAP")
        style = {"color": color, "ls": line, "marker": "o", "ms": 3, "markevery": 1}
        drawn.append(
            (steps, 100 * values, {**style, "label": charts.legend_label(title)})
        )
    return line_chart("Validation mAP", "step", "mAP, %", drawn, best_step=best_step)


def cmc_chart(
    title: str, cmcs: Iterable[tuple[Sequence[float], dict[str, Any]]]
) -> list[str]:
    """Draws cumulative matching curves: fractions from rank 1 on, and their looks."""
    lines = [
        (np.arange(1, len(cmc) + 1), 100 * np.asarray(cmc), style)
        for cmc, style in cmcs
    ]
    return line_chart(f"CMC, {title}", "rank k", "found by rank k, %", lines, top=101)
