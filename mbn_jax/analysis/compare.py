"""Several runs side by side: one HTML file that needs no other."""

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mbn_jax.analysis.charts import GRAY, Section, legend_label
from mbn_jax.analysis.curves import Line, cmc_chart, line_chart, read_metrics, series
from mbn_jax.analysis.gap import WAYS, Gap, read_gaps
from mbn_jax.analysis.gap_charts import COLORS, Measured, gap_sections
from mbn_jax.analysis.report import (
    flatten,
    heading,
    page,
    section_html,
    table,
)
from mbn_jax.errors import InputError
from mbn_jax.evaluation.results import read_results
from mbn_jax.evaluation.table import COLUMNS, cells
from mbn_jax.files import check_named, read_json, write_atomically

# Beside its color, which is that of its gaps, each run has a marker.
_MARKERS = "os^D"
_ONE_RUN_EACH = (
    "Each row is one run. To see how much such metrics vary from seed to seed, use "
    "`python -m mbn_jax ablate`: it trains runs of other seeds and gives means over "
    "the seeds and intervals of the difference. The report of every run explains "
    "rank-k, mAP and mINP."
)


class _Run(NamedTuple):
    config: Mapping[str, str]
    results: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    gaps: Mapping[str, Sequence[Gap]]


def write_comparison(workdirs: Sequence[str | Path], path: str | Path) -> None:
    """Writes what finished runs have in common and where they differ.

    Args:
        workdirs: Two to four work directories, of runs on one data set.
        path: The HTML file, which appears whole or not at all.

    Raises:
        InputError: There are too few runs or too many, one is given twice, has no name
            or is not finished, they are of different data sets, or the file cannot be
            written.
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
    body = [
        *_metrics(runs),
        *_differences(runs),
        *section_html(_training(runs)),
        *section_html(_cmc(runs)),
        *_gaps(runs),
    ]
    try:
        write_atomically(path, page(f"{dataset}: {' · '.join(runs)}", [], body))
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder "
            "that you may write to."
        ) from error


def _read_all(workdirs: Sequence[Path]) -> dict[str, _Run]:
    """Reads the runs by short names, and checks that they can be compared."""
    if not 2 <= len(workdirs) <= len(COLORS):
        raise InputError(
            f"Two to {len(COLORS)} work directories are expected, but there "
            f"are {len(workdirs)}: name them after the flags (for means over more "
            "runs there is `python -m mbn_jax ablate`)."
        )
    if len({workdir.resolve() for workdir in workdirs}) < len(workdirs):
        raise InputError(
            f"A work directory is given twice ({', '.join(map(str, workdirs))}), but "
            "a run can only be compared with other runs: leave one of the two out."
        )
    runs = dict(zip(_names(workdirs), map(_read, workdirs), strict=True))
    tests = [_test_of(run.results) for run in runs.values()]
    for workdir, test in zip(workdirs, tests, strict=True):
        if test != tests[0]:
            raise InputError(
                f"{workdir} was tested on {test}, but {workdirs[0]} on {tests[0]}, so "
                "their metrics cannot be compared: give runs of one data set."
            )
    return runs


def _names(workdirs: Sequence[Path]) -> list[str]:
    """Returns the last parts of the paths, or the whole paths where two are equal.

    What all names have in common is left out of names like those of
    `python -m mbn_jax ablate`, "data=…,norm=bn,seed=0".
    """
    names = [workdir.resolve().name for workdir in workdirs]
    if len(set(names)) < len(names):
        return [str(workdir) for workdir in workdirs]
    parts = [name.split(",") for name in names]
    common = set(parts[0]).intersection(*parts)
    short = [", ".join(p for p in of_name if p not in common) for of_name in parts]
    return short if all(short) else names


def _read(workdir: Path) -> _Run:
    if not (workdir / "results.json").exists():
        raise InputError(
            f"{workdir} holds no results.json, so it is not the work directory of a "
            "finished run: give that of one, or finish this run by its training "
            "command."
        )
    config = workdir / "config.json"
    if not config.exists():
        raise InputError(
            f"{config} is missing: put back the one that training wrote, or leave this "
            "run out."
        )
    return _Run(
        flatten(read_json(config)),
        read_results(workdir / "results.json"),
        read_metrics(workdir / "metrics.jsonl"),
        read_gaps(workdir / "gaps.json"),
    )


def _test_of(results: Mapping[str, Any]) -> str:
    protocols = ", ".join(words["title"] for words in results["protocols"].values())
    return f"{results['dataset']}, {results['split']} split ({protocols})"


def _metrics(runs: Mapping[str, _Run]) -> Iterator[str]:
    yield heading("Metrics of the last steps")
    first = next(iter(runs.values())).results
    for protocol, words in first["protocols"].items():
        yield f"<h3>{html.escape(words['title'])}, in percent</h3>"
        rows = []
        for name, run in runs.items():
            last = run.results["figures"]["last"]
            rows.append((f"{name} ({last['step']})", cells(last[protocol])))
        rows.append(("chance", cells(first["figures"]["chance"][protocol])))
        yield table(["run (step)", *COLUMNS.values()], rows)
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


def _looks(runs: Iterable[str]) -> list[dict[str, Any]]:
    """Returns how the line of each run is drawn, as arguments of `Axes.plot`."""
    return [
        {"color": color, "marker": marker, "ms": 4, "label": legend_label(name)}
        for name, color, marker in zip(runs, COLORS, _MARKERS, strict=False)
    ]


def _training(runs: Mapping[str, _Run]) -> Section:
    def lines(key: str, factor: int = 1) -> list[Line]:
        found = [series(run.lines, key) for run in runs.values()]
        return [
            (steps, factor * values, look)
            for (steps, values), look in zip(found, _looks(runs), strict=True)
        ]

    charts = line_chart("Training loss", "step", "loss", lines("loss"), smooth=True)
    for name, words in next(iter(runs.values())).results["protocols"].items():
        title = f"Validation mAP, {words['title']}"
        charts += line_chart(title, "step", "mAP, %", lines(f"val/{name}/mAP", 100))
    words = (
        "Faint: losses as measured; clear: their moving average. Compare the losses of "
        "two runs only if both have the same loss terms with the same weights."
    )
    return Section("Training", words, charts)


def _cmc(runs: Mapping[str, _Run]) -> Section:
    charts = []
    results = [run.results for run in runs.values()]
    for protocol, words in results[0]["protocols"].items():
        rows = [of_run["figures"]["last"] for of_run in results]
        rows.append(results[0]["figures"]["chance"])
        looks = [*_looks(runs), {"color": GRAY, "ls": "--", "label": "chance"}]
        cmcs = [row[protocol]["cmc"] for row in rows]
        charts += cmc_chart(words["title"], zip(cmcs, looks, strict=True))
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
        yield from section_html(section)
    without = [name for name, run in runs.items() if not run.gaps]
    if len(without) == len(runs):
        yield heading("The two distribution gaps")
    if without:
        yield (
            f"<p>Not measured for {html.escape('; '.join(without))}: gap_batches was "
            "0, or the run is of an older version. Give its training command again to "
            "measure them.</p>"
        )
