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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbn_jax.analysis.charts import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    chart,
    legend_label,
    png,
    svg,
    verbatim,
)
from mbn_jax.analysis.gap import SIDES, Gap
from mbn_jax.analysis.page import Section
from mbn_jax.errors import InputError
from mbn_jax.files import check_writable, read_json, write_atomically

# The fields of `Gap` that hold numbers.
GAPS = ("intra", "lasting", "inter")
# How a network normalizes, and what it is shown.
WAYS = {
    "training": "as in training: statistics of the batch",
    "evaluation": "as in evaluation: running statistics",
}
COLORS = (BLUE, ORANGE, PURPLE, GREEN)
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
      of: the name of a modality, or of a pair of them.
    """

    gap: str
    of: str

    def value(self, gap: Gap) -> float:
        """Returns this number of a gap, NaN if the gap does not have it."""
        return getattr(gap, self.gap).get(self.of, np.nan)


class Measured(NamedTuple):
    """The gaps of one network.

    Attributes:
      network: what it is called; networks that differ in their seed alone share a name.
      run: which of these.
      way: one of `WAYS`.
      gaps: as `measure_gaps` gives them; none where they were not measured.
    """

    network: str
    run: str
    way: str
    gaps: Sequence[Gap]


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
    writer.writerow([*Measured._fields[:-1], "layer", "side", *columns])
    for *names, gaps in measured:
        for gap in gaps:
            values = [kind.value(gap) for kind in found]
            figures = ["" if np.isnan(value) else f"{value:.6f}" for value in values]
            writer.writerow([*names, gap.layer, gap.side, *figures])
    return text.getvalue()


def as_markdown(measured: Sequence[Measured]) -> str:
    """Returns the mean over the layers of every network, way and side.

    Where there are several runs of a network, with the standard deviation of their
    means.
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
      measured: of up to four networks; the runs of one are drawn as their mean, in a
        band from the least to the greatest.
      title: of the whole.
    """
    by_way = _by_way(measured)
    networks = dict.fromkeys(network for network, *_ in measured)
    found = kinds(measured)
    of_rows = [[kind for kind in found if kind.gap == name] for name in GAPS]
    if len(found) <= _MOST_IN_A_ROW:
        of_rows = [[*found]]
    columns = max(map(len, of_rows))
    num_rows = len(by_way) * len(of_rows)
    figure = Figure(
        figsize=(3.25 * max(columns, 3), 1.4 + 3.1 * num_rows), layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(verbatim(title), x=0.01, ha="left", weight="bold")
    shape = len(by_way), len(of_rows), columns
    grid = figure.subplots(num_rows, columns, squeeze=False).reshape(shape)
    lowest: dict[int, Axes] = {}
    lines: dict[Any, Artist] = {}
    for panels, (way, of_way) in zip(grid, by_way.items(), strict=True):
        # There is one legend: a network that a row lacks keeps its color for itself.
        runs = {network: of_way.get(network, [()]) for network in networks}
        drawn = []
        for row, of_row in zip(panels, of_rows, strict=True):
            for column, kind in enumerate(of_row):
                axes = lowest[column] = row[column]
                _plot(axes, runs, kind)
                axes.set_title(verbatim(found[kind]), fontsize=10, loc="left")
                axes.grid(alpha=0.3)
                axes.spines[["top", "right"]].set_visible(False)
                axes.tick_params(labelleft=column == 0)
                drawn.append(axes)
                lines |= {line.get_label(): line for line in axes.lines}
            for axes in row[len(of_row) :]:
                axes.remove()
            words = WAYS[way].replace(": ", chr(10))
            row[0].set_ylabel(f"{words}\n{_UNIT}", fontsize=9)
        top = max(axes.get_ylim()[1] for axes in drawn)
        for axes in drawn:
            axes.set_ylim(0, top)
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
    """Writes what `draw_gaps`, `as_markdown` and `as_csv` make.

    To `gap.png`, `gap.md` and `gap.csv`; the folder is made if need be.

    Raises:
      InputError: the folder cannot be written to.
    """
    check_writable(folder)
    folder = Path(folder)
    write_atomically(folder / "gap.md", as_markdown(measured).encode(errors="replace"))
    write_atomically(folder / "gap.csv", as_csv(measured).encode(errors="replace"))
    write_atomically(folder / "gap.png", png(draw_gaps(measured, title), dpi=100))


def gap_charts(
    networks: Mapping[str, Sequence[Sequence[Gap]]], found: Mapping[Kind, str]
) -> list[str]:
    """Draws the gaps of one way as SVG, a chart for each kind, all to one scale.

    Args:
      networks: their runs by their names.
      found: the kinds and their titles, from `kinds`.
    """
    charts = {
        kind: chart(words[0].upper() + words[1:], _DEPTH, _UNIT)
        for kind, words in found.items()
    }
    for kind, (_, axes) in charts.items():
        _plot(axes, networks, kind)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    top = max(axes.get_ylim()[1] for _, axes in charts.values())
    for _, axes in charts.values():
        axes.set_ylim(0, top)
    return [svg(figure) for figure, _ in charts.values()]


def gap_sections(measured: Sequence[Measured]) -> list[Section]:
    """Returns a section of a page for each way."""
    found = kinds(measured)
    return [
        Section(
            f"The two distribution gaps in {way}",
            _EXPLANATIONS[way],
            gap_charts(networks, found),
        )
        for way, networks in _by_way(measured).items()
        if any(runs[0] for runs in networks.values())
    ]


def as_json(by_way: Mapping[str, Sequence[Gap]]) -> dict[str, list[dict[str, Any]]]:
    """The gaps of one run as what JSON can hold."""
    return {way: [gap._asdict() for gap in gaps] for way, gaps in by_way.items()}


def read_gaps(path: Path) -> dict[str, list[Gap]]:
    """What a file holds that `as_json` gave the content of; nothing without a file.

    Raises:
      InputError: it holds something else.
    """
    if not path.exists():
        return {}
    by_way = read_json(path)
    try:
        return {way: [_as_gap(gap) for gap in gaps] for way, gaps in by_way.items()}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not hold the gaps as this version of mbn_jax writes them: "
            "delete it, or give the run's training command again."
        ) from error


def _as_gap(fields: Mapping[str, Any]) -> Gap:
    gap = Gap(**fields)
    numbers = [number for name in GAPS for number in getattr(gap, name).values()]
    if not isinstance(gap.layer, str) or gap.side not in SIDES:
        raise TypeError("not a side of a layer")
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("not a number")
    return gap


def _by_way(
    measured: Iterable[Measured],
) -> dict[str, dict[str, list[Sequence[Gap]]]]:
    by_way: dict[str, dict[str, list[Sequence[Gap]]]] = {}
    for network, _, way, gaps in measured:
        by_way.setdefault(way, {}).setdefault(network, []).append(gaps)
    return by_way


def _profiles(runs: Sequence[Sequence[Gap]], kind: Kind, side: str) -> np.ndarray:
    """Returns the numbers of one kind, (runs, layers)."""
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
            label = legend_label(f"{network}, {side}".removeprefix(", "))
            mean = profiles.mean(0)
            axes.plot(depth, mean, style, color=color, lw=width, label=label)
            if len(runs) > 1:
                low, high = profiles.min(0), profiles.max(0)
                axes.fill_between(depth, low, high, color=color, alpha=0.15, lw=0)
    _name_stages(axes, next(runs[0] for runs in networks.values() if runs[0]))


def _name_stages(axes: Axes, gaps: Sequence[Gap]) -> None:
    """Marks where the stages of a ResNet begin; other networks keep their numbers."""
    layers = [gap.layer for gap in gaps if gap.side == SIDES[0]]
    found = [re.search(r"stage(\d+)", layer) for layer in layers]
    if not any(found):
        return
    stages = ["" if match is None else match[1] for match in found]
    first = next(i for i, stage in enumerate(stages) if stage)
    last = len(stages) - next(i for i, stage in enumerate(stages[::-1]) if stage)
    stages[:first] = ["stem"] * first
    stages[last:] = ["neck"] * (len(stages) - last)
    starts = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    ends = [*starts[1:], len(stages)]
    middles = [(start + end + 1) / 2 for start, end in zip(starts, ends, strict=True)]
    axes.set_xticks([start + 0.5 for start in starts], [""] * len(starts))
    axes.set_xticks(middles, [stages[i] for i in starts], minor=True)
    ink = axes.xaxis.label.get_color()
    axes.tick_params(axis="x", which="minor", length=0, labelsize=8, labelcolor=ink)
