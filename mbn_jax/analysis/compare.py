"""Several runs side by side: one HTML file that needs no other."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from mbn_jax.analysis.charts import GRAY, INK, chart, legend_label, svg
from mbn_jax.analysis.curves import noisy_line, read_metrics, series
from mbn_jax.analysis.gap import Gap
from mbn_jax.analysis.gap_charts import (
    COLORS,
    WAYS,
    Measured,
    gap_sections,
    read_gaps,
)
from mbn_jax.analysis.page import Section, charts_of, contents, heading, page, table
from mbn_jax.analysis.report import flatten
from mbn_jax.errors import InputError
from mbn_jax.evaluation.results import read_results
from mbn_jax.evaluation.table import COLUMNS, cells
from mbn_jax.files import check_named, read_json, write_atomically

# Color and marker of each run: those of its gaps, and what needs no eye for colors.
_Style = tuple[str, str]
_STYLES: tuple[_Style, ...] = tuple(zip(COLORS, "os^D", strict=True))
_NUM_MARKERS = 8
_ONE_RUN_EACH = (
    "One run each. How much such figures move from seed to seed, only runs of other "
    "seeds can say: `python -m mbn_jax ablate` trains them, takes means over the "
    "seeds, and gives intervals of the difference. What rank-k, mAP and mINP mean "
    "stands in the report of every run."
)


class _Run(NamedTuple):
    config: Mapping[str, str]
    results: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    gaps: Mapping[str, Sequence[Gap]]


def write_comparison(workdirs: Sequence[str | Path], path: str | Path) -> None:
    """Writes what finished runs have in common and where they differ.

    Args:
        workdirs: two to four, of one data set.
        path: of the HTML file, which appears whole or not at all.

    Raises:
        InputError: too few runs or too many, one twice, one without a name, one that is
            not finished, runs of different data sets, or a file that cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, but the comparison is one HTML file: name it, for "
            f"example {path / 'compare.html'}."
        )
    for workdir in workdirs:
        check_named(workdir)
    runs = _read_all([Path(workdir) for workdir in workdirs])
    dataset = next(iter(runs.values())).results["dataset"]
    title = f"{dataset}: {' · '.join(runs)}"
    body = [
        *_figures(runs),
        *_differences(runs),
        *charts_of(_training(runs)),
        *charts_of(_cmc(runs)),
        *_gaps(runs),
    ]
    body = [f"<h1>{html.escape(title)}</h1>", contents(body), *body]
    try:
        write_atomically(path, page(title, body).encode(errors="replace"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder "
            "that you may write to."
        ) from error


def _read_all(workdirs: Sequence[Path]) -> dict[str, _Run]:
    """The runs by short names, once it is sure that they can be compared."""
    if not 2 <= len(workdirs) <= len(_STYLES):
        raise InputError(
            f"Two to {len(_STYLES)} work directories are expected, but there "
            f"are {len(workdirs)}: name them after the flags (for means over more "
            "runs there is `python -m mbn_jax ablate`)."
        )
    if len({workdir.resolve() for workdir in workdirs}) < len(workdirs):
        raise InputError(
            f"A work directory is given twice ({', '.join(map(str, workdirs))}), but "
            "a run can be compared with others only: leave one of the two out."
        )
    runs = dict(zip(_names(workdirs), map(_read, workdirs), strict=True))
    tests = [_test_of(run) for run in runs.values()]
    for workdir, test in zip(workdirs, tests, strict=True):
        if test != tests[0]:
            raise InputError(
                f"{workdir} was tested on {test}, but {workdirs[0]} on {tests[0]}, so "
                "their figures cannot be compared: give runs of one data set."
            )
    return runs


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The last parts of the paths, or the whole paths where these are not different.

    Of names like those of `python -m mbn_jax ablate`, "data=…,norm=bn,seed=0", what all
    have is left out.
    """
    names = [workdir.resolve().name for workdir in workdirs]
    if len(set(names)) < len(names):
        return [str(workdir) for workdir in workdirs]
    parts = [name.split(",") for name in names]
    common = set(parts[0]).intersection(*parts)
    short = [
        ", ".join(part for part in of_name if part not in common) for of_name in parts
    ]
    return short if all(short) else names


def _read(workdir: Path) -> _Run:
    if not (workdir / "results.json").exists():
        raise InputError(
            f"{workdir} holds no results.json, so it is not the work directory of a "
            "finished run: give that of one, or end this run by its training command."
        )
    return _Run(
        _read_config(workdir / "config.json"),
        read_results(workdir / "results.json"),
        read_metrics(workdir / "metrics.jsonl"),
        read_gaps(workdir / "gaps.json"),
    )


def _read_config(path: Path) -> dict[str, str]:
    if not path.exists():
        raise InputError(
            f"{path} is missing: put back the one that training wrote, or leave this "
            "run out."
        )
    return dict(flatten(read_json(path)))


def _test_of(run: _Run) -> str:
    protocols = ", ".join(words["title"] for words in run.results["protocols"].values())
    return f"{run.results['dataset']}, {run.results['split']} split ({protocols})"


def _figures(runs: Mapping[str, _Run]) -> Iterator[str]:
    yield heading("Figures of the last steps")
    first = next(iter(runs.values())).results
    for protocol, words in first["protocols"].items():
        yield f"<h3>{html.escape(words['title'])}, in percent</h3>"
        last = {name: run.results["figures"]["last"] for name, run in runs.items()}
        rows = [
            (f"{name} ({figures['step']})", figures[protocol])
            for name, figures in last.items()
        ]
        rows.append(("chance", first["figures"]["chance"][protocol]))
        header = ["run (step)", *COLUMNS.values()]
        yield table(header, ((name, cells(figures)) for name, figures in rows))
        yield f'<p class="dim">{html.escape(words["description"])}</p>'
    yield f"<p>{_ONE_RUN_EACH}</p>"


def _differences(runs: Mapping[str, _Run]) -> Iterator[str]:
    yield heading("Where the configurations differ")
    configs = [run.config for run in runs.values()]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = [(key, [config.get(key, "–") for config in configs]) for key in keys]
    differing = [(key, values) for key, values in rows if len(set(values)) > 1]
    if not differing:
        yield "<p>Nowhere.</p>"
        return
    yield table(["key", *runs], differing, text=True)
    if any("–" in values for _, values in differing):
        yield '<p class="dim">–: the run is of a version without this key.</p>'


def _training(runs: Mapping[str, _Run]) -> Section:
    charts = _curves(runs, "loss", "Training loss", "loss", _draw_noisy)
    for name, words in next(iter(runs.values())).results["protocols"].items():
        title = f"Validation mAP, {words['title']}"
        charts += _curves(runs, f"val/{name}/mAP", title, "mAP, %", _draw_percent)
    words = (
        "Faint: losses as measured; clear: their moving average. Compare them only of "
        "runs with the same loss terms and the same weights of these terms."
    )
    return Section("Training", words, charts)


def _curves(
    runs: Mapping[str, _Run], key: str, title: str, unit: str, draw: Callable[..., None]
) -> list[str]:
    """A chart of one key of the logs; none if no run has logged it."""
    found = {name: series(run.lines, key) for name, run in runs.items()}
    if not any(len(steps) for steps, _ in found.values()):
        return []
    figure, axes = chart(title, "step", unit)
    for (name, (steps, values)), style in zip(found.items(), _STYLES, strict=False):
        if len(steps):
            draw(axes, steps, values, name, style)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return [svg(figure)]


def _draw_noisy(
    axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, style: _Style
) -> None:
    line = _line(name, style, len(steps))
    noisy_line(axes, steps, values, line.pop("label"), line.pop("color"), **line)


def _draw_percent(
    axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, style: _Style
) -> None:
    axes.plot(steps, 100 * values, **_line(name, style, len(steps)))


def _cmc(runs: Mapping[str, _Run]) -> Section:
    charts = []
    first = next(iter(runs.values())).results
    for protocol, words in first["protocols"].items():
        figure, axes = chart(f"CMC, {words['title']}", "rank k", "found by rank k, %")
        for (name, run), style in zip(runs.items(), _STYLES, strict=False):
            cmc = np.asarray(run.results["figures"]["last"][protocol]["cmc"])
            _draw_percent(axes, np.arange(1, len(cmc) + 1), cmc, name, style)
        chance = np.asarray(first["figures"]["chance"][protocol]["cmc"])
        ranks = np.arange(1, len(chance) + 1)
        axes.plot(ranks, 100 * chance, "--", color=GRAY, label="chance")
        axes.set_ylim(0, 101)
        _legend(axes)
        charts.append(svg(figure))
    words = (
        "For each k, the share of queries whose identity is among the first k images, "
        "or identities where the protocol counts these."
    )
    return Section("Cumulative matching (CMC)", words, charts)


def _gaps(runs: Mapping[str, _Run]) -> Iterator[str]:
    measured = [
        Measured(name, name, way, run.gaps.get(way, ()))
        for way in WAYS
        for name, run in runs.items()
    ]
    for section in gap_sections(measured):
        yield from charts_of(section)
    without = [name for name, run in runs.items() if not run.gaps]
    if len(without) == len(runs):
        yield heading("The two distribution gaps")
    if without:
        yield (
            f"<p>Not measured for {html.escape('; '.join(without))}: gap_batches was "
            "0, or the run is of an older version. Its training command, given again, "
            "measures them.</p>"
        )


def _line(name: str, style: _Style, num_points: int) -> dict[str, Any]:
    """How the line of a run looks, as arguments of `Axes.plot`."""
    color, marker = style
    every = max(1, num_points // _NUM_MARKERS)
    look = {"marker": marker, "markersize": 4, "markevery": every}
    return {"color": color, "label": legend_label(name), **look}


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
