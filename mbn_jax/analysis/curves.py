"""Charts over the steps of a run, and the reader of its metrics.jsonl."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mbn_jax.analysis.charts import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    chart,
    legend_label,
    styles,
    svg,
)
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


_OF_LOSSES = (ORANGE, PURPLE, GREEN, RED, GRAY, "#5b6bc8", "#a08214")
_MOST_INSIDE = 3  # protocols whose legend leaves room for their curves
_MOST_POINTS = 800


def training_curves(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Loss and accuracy over the steps; empty charts are left out.

    Args:
        lines: objects of ``metrics.jsonl`` in the order of their steps.
    """
    names = {key for line in lines for key in line if key.endswith("_loss")}
    losses = {"loss": ("total", BLUE)}
    for name, color in zip(sorted(names), _OF_LOSSES, strict=False):
        losses[name] = (name.removesuffix("_loss").replace("_", " "), color)
    charts = []
    drawn = [(*series(lines, key), *style) for key, style in losses.items()]
    if any(len(steps) for steps, *_ in drawn):
        figure, axes = chart("Training loss", "step", "loss")
        for steps, values, label, color in drawn:
            noisy_line(axes, steps, values, label, color)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, labelcolor=INK)
        charts.append(svg(figure))
    steps, values = series(lines, "accuracy")
    if len(steps):
        figure, axes = chart("Training accuracy", "step", "right identity, %")
        noisy_line(axes, steps, 100 * values, None, BLUE)
        axes.set_ylim(0, 101)
        charts.append(svg(figure))
    return charts


def validation_curve(
    lines: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
    best_step: int | None,
) -> list[str]:
    """Draws validation mAP by each protocol, with the step that was kept as best.

    Args:
        lines: objects of ``metrics.jsonl`` in the order of their steps.
        titles: of the protocols, by their names.
        best_step: None if there was no validation.
    """
    figure, axes = chart("Validation mAP", "step", "mAP, %")
    found = False
    for name, (color, line) in styles(titles).items():
        steps, values = series(lines, f"val/{name}/mAP")
        found |= len(steps) > 0
        label = legend_label(titles[name])
        axes.plot(steps, 100 * values, f"o{line}", ms=3, color=color, label=label)
    if not found:
        return []
    if best_step is not None:
        axes.axvline(best_step, color=GRAY, ls=":", label=f"best: step {best_step}")
    axes.set_ylim(bottom=0)
    if len(titles) <= _MOST_INSIDE:
        axes.legend(frameon=False, labelcolor=INK)
    else:
        figure.legend(
            loc="outside lower left",
            ncols=2,
            frameon=False,
            labelcolor=INK,
            fontsize=8,
        )
        figure.set_figheight(figure.get_figheight() + 0.08 * len(titles))
    return [svg(figure)]


def cmc_curves(
    figures: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]
) -> list[str]:
    """One chart per protocol: trained, untrained, and chance as a dashed line.

    Args:
        figures: ``results.json``'s object of that name.
        titles: of the protocols, by their names.
    """
    styles: dict[str, dict[str, Any]] = {
        "last": {"color": BLUE, "label": "last step", "lw": 2},
        "best": {"color": ORANGE, "label": "best on validation", "ls": "-."},
        "untrained": {"color": GRAY, "label": "untrained"},
        "chance": {"color": GRAY, "label": "chance", "ls": "--"},
    }
    charts = []
    for name, title in titles.items():
        figure, axes = chart(f"CMC, {title}", "rank k", "found by rank k, %")
        for row, style in styles.items():
            if row in figures and name in figures[row]:
                cmc = 100 * np.asarray(figures[row][name]["cmc"])
                axes.plot(np.arange(1, len(cmc) + 1), cmc, **style)
        axes.set_ylim(0, 101)
        axes.set_xlim(left=1)
        axes.legend(frameon=False, labelcolor=INK, loc="lower right")
        charts.append(svg(figure))
    return charts


def series(
    lines: Sequence[Mapping[str, Any]], key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, (n,) each, of the lines that have the key."""
    points = [(line["step"], line[key]) for line in lines if key in line]
    steps, values = np.array(points, float).reshape(-1, 2).T
    return steps, values


def noisy_line(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    label: str | None,
    color: str,
    **style: Any,
) -> None:
    """A faint line of all the values, and a clear one of their moving average.

    Args:
        axes: to draw on.
        steps: (n,); nothing is drawn of none.
        values: (n,).
        label: of the clear line.
        color: of both.
        **style: of the clear line.
    """
    if len(steps) == 0:
        return
    # A long run would make a page of many megabytes: neighbors are averaged.
    groups = min(_MOST_POINTS, len(steps))
    edges = np.linspace(0, len(steps), groups, endpoint=False).astype(int)
    sizes = np.diff(np.append(edges, len(steps)))
    steps = np.add.reduceat(steps, edges) / sizes
    values = np.add.reduceat(values, edges) / sizes
    axes.plot(steps, values, color=color, alpha=0.3, lw=1)
    width = max(1, len(values) // 40)
    window = np.ones(2 * width + 1)
    # Divided by the number of values that a window holds, so that the ends are right.
    weight = np.convolve(np.ones(len(values)), window, "full")[width:-width]
    smooth = np.convolve(values, window, "full")[width:-width] / weight
    axes.plot(steps, smooth, color=color, lw=2, label=label, **style)
