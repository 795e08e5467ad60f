"""Several runs side by side: one HTML file that needs no other."""

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbn_jax.analysis.charts import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, chart, svg
from mbn_jax.analysis.gap import Gap
from mbn_jax.analysis.gap_charts import Measured, from_json, gap_sections
from mbn_jax.analysis.page import page, table
from mbn_jax.analysis.report import Section, charts_of, flatten, read_metrics
from mbn_jax.errors import InputError
from mbn_jax.evaluation.table import COLUMNS, cells
from mbn_jax.files import read_json, write_atomically

_COLOURS = (BLUE, ORANGE, PURPLE, GREEN)


class _Run(NamedTuple):
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    gaps: Mapping[str, Sequence[Gap]]


def write_comparison(workdirs: Sequence[str | Path], path: str | Path) -> None:
    """Writes what finished runs have in common and where they differ.

    Args:
        workdirs: two to four, of one data set.
        path: of the HTML file, which appears whole or not at all.

    Raises:
        InputError: a run is not finished, or they are of different data sets.
    """
    if not 2 <= len(workdirs) <= len(_COLOURS):
        raise InputError(
            f"{len(workdirs)} work directories were given, but two to "
            f"{len(_COLOURS)} can be compared at a time."
        )
    named = dict(zip(_names(workdirs), workdirs, strict=True))
    runs = {name: _read(Path(w)) for name, w in named.items()}
    datasets = {run.results["dataset"] for run in runs.values()}
    if len(datasets) > 1:
        raise InputError(
            f"The runs are of different data sets ({', '.join(sorted(datasets))}), so "
            "that their figures cannot be compared."
        )
    title = f"{datasets.pop()}: {', '.join(runs)}"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        *_figures(runs),
        *_differences(runs),
        *charts_of(_losses(runs)),
        *charts_of(_cmc(runs)),
    ]
    measured = [
        Measured(name, name, *of_way)
        for name, run in runs.items()
        for of_way in run.gaps.items()
    ]
    for section in gap_sections(measured):
        body += charts_of(section)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), page(title, body).encode())


def _names(workdirs: Sequence[str | Path]) -> list[str]:
    """The last parts of the paths, or the whole paths where these are not different."""
    names = [Path(workdir).name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(w) for w in workdirs]


def _read(workdir: Path) -> _Run:
    if not (workdir / "results.json").exists():
        raise InputError(
            f"{workdir} holds no results.json, so it is not the work directory of a "
            "finished run."
        )
    gaps = workdir / "gaps.json"
    return _Run(
        read_json(workdir / "config.json"),
        read_json(workdir / "results.json"),
        read_metrics(workdir / "metrics.jsonl"),
        from_json(read_json(gaps)) if gaps.exists() else {},
    )


def _figures(runs: Mapping[str, _Run]) -> Iterator[str]:
    yield "<h2>Figures of the last steps, in per cent</h2>"
    first = next(iter(runs.values()))
    for protocol, words in first.results["protocols"].items():
        yield f"<h3>{html.escape(words['title'])}</h3>"
        figures = {name: run.results["figures"] for name, run in runs.items()}
        rows = [(name, cells(of["last"][protocol])) for name, of in figures.items()]
        chance = first.results["figures"]["chance"][protocol]
        yield table(["", *COLUMNS.values()], [*rows, ("chance", cells(chance))])
        yield f'<p class="dim">{html.escape(words["description"])}</p>'
    yield (
        "<p>One run each: how much such figures move from seed to seed, only runs with "
        "other seeds can say (experiments/ablate.py).</p>"
    )


def _differences(runs: Mapping[str, _Run]) -> Iterator[str]:
    flat = [dict(flatten(run.config)) for run in runs.values()]
    keys = [key for key in flat[0] if len({of.get(key) for of in flat}) > 1]
    yield "<h2>Where the configurations differ</h2>"
    if not keys:
        yield "<p>Nowhere.</p>"
        return
    yield table(["", *runs], ((key, [of.get(key, "–") for of in flat]) for key in keys))


def _losses(runs: Mapping[str, _Run]) -> Section:
    figure, axes = chart("Training loss", "step", "loss")
    for (name, run), colour in zip(runs.items(), _COLOURS, strict=False):
        points = [(line["step"], line["loss"]) for line in run.lines if "loss" in line]
        steps, values = np.array(points, float).reshape(-1, 2).T
        axes.plot(steps, values, color=colour, label=name)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    words = "Losses are comparable only where the runs have the same ones."
    return Section("Training", words, [svg(figure)])


def _cmc(runs: Mapping[str, _Run]) -> Section:
    charts = []
    first = next(iter(runs.values()))
    for protocol, words in first.results["protocols"].items():
        figure, axes = chart(f"CMC, {words['title']}", "rank k", "found by rank k, %")
        for (name, run), colour in zip(runs.items(), _COLOURS, strict=False):
            cmc = 100 * np.asarray(run.results["figures"]["last"][protocol]["cmc"])
            axes.plot(np.arange(1, len(cmc) + 1), cmc, color=colour, label=name)
        chance = 100 * np.asarray(first.results["figures"]["chance"][protocol]["cmc"])
        ranks = np.arange(1, len(chance) + 1)
        axes.plot(ranks, chance, "--", color=GREY, label="chance")
        axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="lower right")
        charts.append(svg(figure))
    words = "For each k, the share of queries whose person is among the first k."
    return Section("Cumulative matching (CMC)", words, charts)
