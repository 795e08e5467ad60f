"""The distribution gaps of networks as tables and as charts over the depth."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbn_jax.analysis import charts
from mbn_jax.analysis.charts import Section
from mbn_jax.analysis.gap import GAPS, SIDES, WAYS, Gap
from mbn_jax.files import check_writable, write_atomically

COLORS = (charts.BLUE, charts.ORANGE, charts.PURPLE, charts.GREEN)
_DEPTH, _UNIT = "normalization, from the image on", "gap, standard deviations"
_MOST_IN_A_ROW = 4  # panels; of more, each gap has a row of its own
_EXPLANATIONS = {
    "training": "For every normalization of the network, from the image on: how far "
    "the distributions of two modalities lie apart in a batch, which part of that "
    "stays from batch to batch, and how far the distribution of one modality moves "
    "from batch to batch. Dashed before, solid after the layer, in standard deviations "
    "of its channels; zero is no gap, and where one line shows, both coincide. Here on "
    "training images, normalized by the statistics of their batch: after a "
    "normalization by modality all of it is zero by construction.",
    "evaluation": "The same on test images, normalized by running statistics, as the "
    "network is used. They were averaged over training images, so that even "
    "normalization by modality leaves a gap. The numbers are in gaps.json of the work "
    "directory, and docs/distribution-gaps.md says what they are.",
}


class Kind(NamedTuple):
    """One number of every `Gap`.

    Attributes:
        gap: "intra", "lasting" or "inter".
        of: The name of a modality, or of a pair of them.
    """

    gap: str
    of: str

    def value(self, gap: Gap) -> float:
        """Returns this number of a gap, NaN if the gap does not have it."""
        return getattr(gap, self.gap).get(self.of, np.nan)


class Measured(NamedTuple):
    """The gaps of one network.

    Attributes:
        network: Its name; networks that differ in their seed alone share a name.
        run: The name of the run among those of the network.
        way: One of `WAYS`.
        gaps: From `measure_gaps`; empty if they were not measured.
    """

    network: str
    run: str
    way: str
    gaps: Sequence[Gap]


# The gaps of all runs of every network, by its name.
Networks = dict[str, list[Sequence[Gap]]]


def kinds(measured: Iterable[Measured]) -> dict[Kind, str]:
    """Returns the kinds of numbers that the gaps hold, and a title for each."""
    gaps = [gap for *_, of_run in measured for gap in of_run]
    found = [
        Kind(name, of)
        for name in GAPS
        for of in dict.fromkeys(of for gap in gaps for of in getattr(gap, name))
    ]
    if sum(kind.gap == "intra" for kind in found) > 1:
        words = "intra: {}, in a batch", "the lasting part of intra: {}"
    else:
        words = "intra: between the modalities of a batch", "the lasting part of intra"
    by_gap = dict(zip(GAPS, (*words, "inter: {}, from batch to batch"), strict=True))
    return {kind: by_gap[kind.gap].format(kind.of) for kind in found}


def as_csv(measured: Sequence[Measured]) -> str:
    """Returns one line for each run, way, layer and side.

    A column is named for the gap and the modalities, "intra_visible-infrared"; it is
    empty if a network does not have these modalities.
    """
    text = io.StringIO()
    found = kinds(measured)
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{kind.gap}_{kind.of}" for kind in found]
    writer.writerow(["network", "run", "way", "layer", "side", *columns])
    for *names, gaps in measured:
        for gap in gaps:
            values = [kind.value(gap) for kind in found]
            cells = ["" if np.isnan(value) else f"{value:.6f}" for value in values]
            writer.writerow([*names, gap.layer, gap.side, *cells])
    return text.getvalue()


def as_markdown(measured: Sequence[Measured]) -> str:
    """Returns the mean over the layers of every network, way and side.

    Of several runs of a network, with the standard deviation of their means.
    """
    found = kinds(measured)
    lines = [
        "| network | statistics | side | " + " | ".join(found.values()) + " |",
        "|" + "---|" * (3 + len(found)),
    ]
    for way, networks in _by_way(measured).items():
        for network, runs in networks.items():
            for side in SIDES:
                cells = [_mean(_profiles(runs, kind, side)) for kind in found]
                lines.append(f"| {network} | {way} | {side} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_gaps(measured: Sequence[Measured], title: str) -> Figure:
    """Draws the gaps over the depth: a panel for each kind, the ways one below another.

    Args:
        measured: Of up to four networks. The runs of one are drawn as their mean, in a
            band from the least to the greatest.
        title: The title of the figure.
    """
    by_way = _by_way(measured)
    networks = dict.fromkeys(network for network, *_ in measured)
    found = kinds(measured)
    rows = [[kind for kind in found if kind.gap == name] for name in GAPS]
    if len(found) <= _MOST_IN_A_ROW:
        rows = [[*found]]
    columns = max(map(len, rows))
    figure = Figure(
        figsize=(3.25 * max(columns, 3), 1.4 + 3.1 * len(by_way) * len(rows)),
        layout="constrained",
    )
    figure.suptitle(charts.verbatim(title), x=0.01, ha="left", weight="bold")
    grid = figure.subplots(len(by_way) * len(rows), columns, squeeze=False)
    lowest: dict[int, Axes] = {}
    lines: dict[Any, Artist] = {}
    for panels, (way, of_way) in zip(
        grid.reshape(len(by_way), len(rows), columns), by_way.items(), strict=True
    ):
        # There is one legend: a network that a row lacks keeps its color for itself.
        runs = {network: of_way.get(network, [()]) for network in networks}
        drawn = []
        for row, of_row in zip(panels, rows, strict=True):
            row[0].set_ylabel(
                f"{WAYS[way].replace(': ', chr(10))}\n{_UNIT}", fontsize=9
            )
            for column, kind in enumerate(of_row):
                axes = lowest[column] = row[column]
                _plot(axes, runs, kind)
                axes.set_title(charts.verbatim(found[kind]), fontsize=10, loc="left")
                axes.grid(alpha=0.3)
                axes.spines[["top", "right"]].set_visible(False)
                axes.tick_params(labelleft=column == 0)
                drawn.append(axes)
                lines |= {line.get_label(): line for line in axes.lines}
            for axes in row[len(of_row) :]:
                axes.remove()
        _share_scale(drawn)
    for axes in lowest.values():
        axes.set_xlabel(_DEPTH, fontsize=9)
    figure.legend(
        handles=[*lines.values()],
        loc="outside lower center",
        ncols=len(networks),
        frameon=False,
        fontsize=9,
    )
    return figure


def write_gaps(measured: Sequence[Measured], folder: str | Path, title: str) -> None:
    """Writes `draw_gaps`, `as_markdown` and `as_csv` to gap.png, gap.md and gap.csv.

    Raises:
        InputError: The folder, which is made if need be, cannot be written to.
    """
    check_writable(folder)
    folder = Path(folder)
    write_atomically(folder / "gap.md", as_markdown(measured).encode(errors="replace"))
    write_atomically(folder / "gap.csv", as_csv(measured).encode(errors="replace"))
    write_atomically(
        folder / "gap.png", charts.png(draw_gaps(measured, title), dpi=100)
    )


def gap_sections(measured: Sequence[Measured]) -> list[Section]:
    """Returns a section of a page for each way, with a chart for each kind."""
    found = kinds(measured)
    sections = []
    for way, networks in _by_way(measured).items():
        if not any(runs[0] for runs in networks.values()):
            continue
        panels = []
        for kind, title in found.items():
            figure, axes = charts.chart(title[0].upper() + title[1:], _DEPTH, _UNIT)
            _plot(axes, networks, kind)
            charts.add_legend(axes)
            panels.append((figure, axes))
        _share_scale([axes for _, axes in panels])
        title = f"The two distribution gaps in {way}"
        drawn = [charts.svg(figure) for figure, _ in panels]
        sections.append(Section(title, _EXPLANATIONS[way], drawn))
    return sections


def _share_scale(panels: Sequence[Axes]) -> None:
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(0, top)


def _by_way(measured: Iterable[Measured]) -> dict[str, Networks]:
    by_way: dict[str, Networks] = {}
    for network, _, way, gaps in measured:
        by_way.setdefault(way, {}).setdefault(network, []).append(gaps)
    return by_way


def _profiles(runs: Sequence[Sequence[Gap]], kind: Kind, side: str) -> np.ndarray:
    """Returns the numbers of one kind, `(runs, layers)`."""
    return np.array([[kind.value(g) for g in gaps if g.side == side] for gaps in runs])


def _mean(profiles: np.ndarray) -> str:
    if np.isnan(profiles).any():
        return "–"
    means = profiles.mean(1)
    spread = f" ± {means.std(ddof=1):.3f}" if len(means) > 1 else ""
    return f"{means.mean():.3f}{spread}"


def _plot(
    axes: Axes, networks: Mapping[str, Sequence[Sequence[Gap]]], kind: Kind
) -> None:
    for (network, runs), color in zip(networks.items(), COLORS, strict=False):
        if not runs[0] or np.isnan(kind.value(runs[0][0])):
            continue
        for side, style, width in zip(SIDES, ("--", "-"), (1.2, 2.0), strict=True):
            profiles = _profiles(runs, kind, side)
            depth = np.arange(1, profiles.shape[1] + 1)
            label = charts.legend_label(f"{network}, {side}".removeprefix(", "))
            axes.plot(
                depth, profiles.mean(0), style, color=color, lw=width, label=label
            )
            if len(runs) > 1:
                low, high = profiles.min(0), profiles.max(0)
                axes.fill_between(depth, low, high, color=color, alpha=0.15, lw=0)
    _name_stages(axes, next(runs[0] for runs in networks.values() if runs[0]))


def _name_stages(axes: Axes, gaps: Sequence[Gap]) -> None:
    """Marks where the stages of a ResNet begin; other networks keep their numbers."""
    layers = [gap.layer for gap in gaps if gap.side == SIDES[0]]
    found = [re.search(r"stage(\d+)", layer) for layer in layers]
    numbered = [i for i, match in enumerate(found) if match]
    if not numbered:
        return
    names = ["" if match is None else match[1] for match in found]
    first, last = numbered[0], numbered[-1] + 1
    stages = ["stem"] * first + names[first:last] + ["neck"] * (len(names) - last)
    starts = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    ends = [*starts[1:], len(stages)]
    middles = [(start + end + 1) / 2 for start, end in zip(starts, ends, strict=True)]
    axes.set_xticks([start + 0.5 for start in starts], [""] * len(starts))
    axes.set_xticks(middles, [stages[i] for i in starts], minor=True)
    ink = axes.xaxis.label.get_color()
    axes.tick_params(axis="x", which="minor", length=0, labelsize=8, labelcolor=ink)
