"""Charts of a grid of runs: differences, alone and over the gap that BN leaves."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbn_jax.analysis.ablation import Result, by_setting, difference, facts_of
from mbn_jax.analysis.ablation_tables import label
from mbn_jax.analysis.charts import BLUE, SERIES, legend_label, verbatim

_MARKERS = ("o", "s", "^", "D")


def draw(results: Sequence[Result]) -> Figure:
    """Draws the differences of all settings with their intervals."""
    groups = by_setting(results)
    figure = Figure(figsize=(8, 1.2 + 0.36 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row, group in enumerate(groups.values()):
        found = difference(group)
        if found:
            low, mean, high = (100 * x for x in (found.low, found.mean, found.high))
            axes.plot([low, high], [row, row], color=BLUE, linewidth=2)
            axes.plot(mean, row, "o", color=BLUE)
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(range(len(groups)), [verbatim(label(s, groups)) for s in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel("mAP of MBN minus mAP of BN, points; 95 % interval over seeds")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def draw_by_gap(results: Sequence[Result]) -> Figure:
    """Draws the difference of every setting over the lasting gap that BN leaves."""
    groups = by_setting(results)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # Ten colors with four markers tell forty settings apart.
    styles = itertools.cycle((c, m) for m in _MARKERS for c in SERIES)
    for (setting, group), (color, marker) in zip(groups.items(), styles, strict=False):
        gap, found = facts_of(group, "bn", "lasting_training"), difference(group)
        if gap and found:
            low, mean, high = (100 * x for x in (found.low, found.mean, found.high))
            x = float(np.mean(gap))
            axes.plot([x, x], [low, high], color=color, linewidth=2)
            name = legend_label(label(setting, groups))
            axes.plot(x, mean, marker, color=color, label=name)
    axes.axhline(0, color="0.5", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("lasting gap after BN's layers in training, standard deviations")
    axes.set_ylabel("mAP of MBN minus mAP of BN, points")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    return figure
