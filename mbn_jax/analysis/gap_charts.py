"""The distribution gaps of networks as tables and as charts over the depth."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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
    svg,
    verbatim,
)
from mbn_jax.analysis.gap import SIDES, Gap
from mbn_jax.analysis.page import Section
from mbn_jax.errors import InputError
from mbn_jax.files import check_writable, read_json, write_atomically

# The fields of `Gap`, and what each is.
GAPS = {
    "intra": "intra: between the modalities of a batch",
    "lasting": "the lasting part of intra",
    "inter_visible": "inter: visible, from batch to batch",
    "inter_infrared": "inter: infrared, from batch to batch",
}
# How a network normalises, and what it is shown.
WAYS = {
    "training": "as in training: statistics of the batch",
    "evaluation": "as in evaluation: running statistics",
}
COLOURS = (BLUE, ORANGE, PURPLE, GREEN)
_DEPTH, _UNIT = "normalisation, from the image on", "gap, standard deviations"
_EXPLANATIONS = {
    "training": "For every normalisation of the network, from the image on: how far "
    "the distributions of the two modalities lie apart in a batch, which part of that "
    "stays from batch to batch, and how far the distribution of one modality moves "
    "from batch to batch. Dashed before, solid after the layer, in standard deviations "
    "of its channels; zero is no gap, and where one line shows, both coincide. Here on "
    "training images, normalised by the statistics of their batch: after a "
    "normalisation by modality all of it is zero by construction.",
    "evaluation": "The same on test images, normalised by running statistics, as the "
    "network is used. They were averaged over training images, so that even "
    "normalisation by modality leaves a gap. The numbers are in gaps.json of the work "
    "directory, and docs/distribution-gaps.md says what they are.",
}


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


def as_csv(measured: Iterable[Measured]) -> str:
    """One line for each run, way, layer and side."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*Measured._fields[:-1], *Gap._fields])
    for *names, gaps in measured:
        for gap in gaps:
            figures = [f"{getattr(gap, name):.6f}" for name in GAPS]
            writer.writerow([*names, gap.layer, gap.side, *figures])
    return text.getvalue()


def as_markdown(measured: Sequence[Measured]) -> str:
    """The mean over the layers of every network, way and side.

    Where there are several runs of a network, with the standard deviation of their
    means.
    """
    lines = [
        "| network | statistics | side | " + " | ".join(GAPS.values()) + " |",
        "|" + "---|" * (3 + len(GAPS)),
    ]
    for way, networks in _by_way(measured).items():
        for network, runs in networks.items():
            for side in SIDES:
                cells = [_mean(_profiles(runs, name, side)) for name in GAPS]
                lines.append(f"| {network} | {way} | {side} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_gaps(measured: Sequence[Measured], title: str) -> Figure:
    """The gaps over the depth: a row for each way, a panel for each kind.

    Args:
      measured: of up to four networks; the runs of one are drawn as their mean, in a
        band from the least to the greatest.
      title: of the whole.
    """
    by_way = _by_way(measured)
    networks = dict.fromkeys(network for network, *_ in measured)
    figure = Figure(figsize=(13, 1.4 + 3.1 * len(by_way)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(verbatim(title), x=0.01, ha="left", weight="bold")
    panels = figure.subplots(len(by_way), len(GAPS), sharey="row", squeeze=False)
    for row, (way, found) in zip(panels, by_way.items(), strict=True):
        # One legend for all rows: what a row lacks keeps its colour for itself.
        runs = {network: found.get(network, [()]) for network in networks}
        for axes, (name, words) in zip(row, GAPS.items(), strict=True):
            _plot(axes, runs, name)
            axes.set_title(words, fontsize=10, loc="left")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylim(0)  # not before all panels of the row are drawn
        row[0].set_ylabel(f"{WAYS[way].replace(': ', chr(10))}\n{_UNIT}", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel(_DEPTH, fontsize=9)
    lines = {line.get_label(): line for axes in panels[:, 0] for line in axes.lines}
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
    picture = io.BytesIO()
    draw_gaps(measured, title).savefig(picture, format="png", dpi=100)
    write_atomically(folder / "gap.md", as_markdown(measured).encode())
    write_atomically(folder / "gap.csv", as_csv(measured).encode())
    write_atomically(folder / "gap.png", picture.getvalue())


def gap_charts(networks: Mapping[str, Sequence[Sequence[Gap]]]) -> list[str]:
    """The gaps of one way as SVG, a chart for each kind, all to one scale."""
    charts = {
        name: chart(words[0].upper() + words[1:], _DEPTH, _UNIT)
        for name, words in GAPS.items()
    }
    for name, (_, axes) in charts.items():
        _plot(axes, networks, name)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    top = max(axes.get_ylim()[1] for _, axes in charts.values())
    for _, axes in charts.values():
        axes.set_ylim(0, top)
    return [svg(figure) for figure, _ in charts.values()]


def gap_sections(measured: Sequence[Measured]) -> list[Section]:
    """A section of a page for each way."""
    return [
        Section(
            f"The two distribution gaps in {way}",
            _EXPLANATIONS[way],
            gap_charts(networks),
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
    try:
        return {
            way: [_as_gap(gap) for gap in gaps] for way, gaps in read_json(path).items()
        }
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{path} does not hold the gaps as this version of mbn_jax writes them: "
            "delete it, or give the run's training command again."
        ) from error


def _as_gap(fields: Mapping[str, Any]) -> Gap:
    gap = Gap(**fields)
    numbers = [getattr(gap, name) for name in GAPS]
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


def _profiles(runs: Sequence[Sequence[Gap]], name: str, side: str) -> np.ndarray:
    """Of one kind, (runs, layers)."""
    return np.array(
        [[getattr(g, name) for g in gaps if g.side == side] for gaps in runs]
    )


def _mean(profiles: np.ndarray) -> str:
    means = profiles.mean(1)
    spread = f" ± {means.std(ddof=1):.3f}" if len(means) > 1 else ""
    return f"{means.mean():.3f}{spread}"


def _plot(
    axes: Axes, networks: Mapping[str, Sequence[Sequence[Gap]]], name: str
) -> None:
    for (network, runs), colour in zip(networks.items(), COLOURS, strict=False):
        if not runs[0]:
            continue
        for side, style, width in zip(SIDES, ("--", "-"), (1.2, 2.0), strict=True):
            profiles = _profiles(runs, name, side)
            depth = np.arange(1, profiles.shape[1] + 1)
            label = legend_label(f"{network}, {side}".removeprefix(", "))
            mean = profiles.mean(0)
            axes.plot(depth, mean, style, color=colour, lw=width, label=label)
            if len(runs) > 1:
                low, high = profiles.min(0), profiles.max(0)
                axes.fill_between(depth, low, high, color=colour, alpha=0.15, lw=0)
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
