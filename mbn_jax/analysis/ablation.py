"""What a grid of runs shows: a table of means and differences, and a figure."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbn_jax.analysis.charts import SERIES

FIGURES = ("rank1", "rank10", "mAP", "mINP")
REPLICATES = 10_000


class Result(NamedTuple):
    """A run by one protocol.

    Attributes:
      setting: values of the axes but norm and seed, by name.
      norm: "bn" or "mbn".
      seed: of the run.
      protocol: its name.
      figures: as in results.json.
      precisions: (Q,) float64, average precision of every query, in the same order for
        all runs of one data set; NaN without a match.
      run: name of its directory; a run may stand for several settings.
    """

    setting: tuple[tuple[str, str], ...]
    norm: str
    seed: str
    protocol: str
    figures: Mapping[str, Any]
    precisions: np.ndarray
    run: str


class Difference(NamedTuple):
    """MBN − BN of one setting, in fractions of mAP.

    Attributes:
      mean: over the paired seeds.
      low, high: the 95 % interval.
      num_seeds: that both have.
    """

    mean: float
    low: float
    high: float
    num_seeds: int


def as_csv(results: Sequence[Result]) -> str:
    """One line for each run and protocol."""
    text = io.StringIO()
    axes = [name for name, _ in results[0].setting]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, "norm", "seed", "protocol", *FIGURES, "run"])
    for result in results:
        figures = [f"{result.figures[name]:.6f}" for name in FIGURES]
        values = [value for _, value in result.setting]
        names = [*values, result.norm, result.seed, result.protocol]
        writer.writerow([*names, *figures, result.run])
    return text.getvalue()


def difference(results: Sequence[Result], seed: int = 0) -> Difference | None:
    """The paired difference of one setting by one protocol; None without a pair.

    Runs with the same seed see the same batches and the same first weights, so their
    average precisions are subtracted query by query. The interval is the percentile
    bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993) of the
    mean of this matrix, its seeds and its queries drawn anew with replacement. Of three
    seeds it can show little more than their range.

    Args:
      results: of the setting, with both norms.
      seed: of the drawing.
    """
    by_norm = {
        norm: {r.seed: r.precisions for r in results if r.norm == norm}
        for norm in ("mbn", "bn")
    }
    seeds = sorted(by_norm["mbn"].keys() & by_norm["bn"].keys())
    if not seeds:
        return None
    differences = np.stack([by_norm["mbn"][s] - by_norm["bn"][s] for s in seeds])
    differences = differences[:, ~np.isnan(differences).any(0)]
    num_seeds, num_queries = differences.shape
    rng = np.random.default_rng(seed)

    def weights(n: int) -> np.ndarray:
        return np.bincount(rng.integers(n, size=n), minlength=n) / n

    means = [
        weights(num_seeds) @ (differences @ weights(num_queries))
        for _ in range(REPLICATES)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(differences.mean(), low, high, num_seeds)


def by_setting(
    results: Sequence[Result],
) -> dict[tuple[tuple[tuple[str, str], ...], str], list[Result]]:
    """The results of every setting and protocol, in the order of the first."""
    groups: dict[tuple[tuple[tuple[str, str], ...], str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.setting, result.protocol), []).append(result)
    return groups


def as_markdown(results: Sequence[Result]) -> str:
    """Mean ± standard deviation over the seeds, in per cent, and the differences.

    Of the first setting all values are named, of the others what differs from it.
    """
    first = results[0].setting
    columns = ["BN: rank-1", "mAP", "MBN: rank-1", "mAP", "mAP, MBN − BN (95 %)"]
    columns += ["pairs"]
    lines = [
        "| " + " | ".join(["setting", "direction", *columns]) + " |",
        "|" + "---|" * (2 + len(columns)),
    ]
    for (setting, protocol), group in by_setting(results).items():
        cells = [_short(setting, first), _title(protocol)]
        for norm in ("bn", "mbn"):
            for name in ("rank1", "mAP"):
                values = [r.figures[name] for r in group if r.norm == norm]
                cells.append(_mean_and_deviation(values))
        found = difference(group)
        cells += (
            ["–", "0"]
            if found is None
            else [
                f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to "
                f"{100 * found.high:+.1f})",
                str(found.num_seeds),
            ]
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(results: Sequence[Result]) -> Figure:
    """The differences of all settings with their intervals, one below the other."""
    groups = by_setting(results)
    settings = list(dict.fromkeys(setting for setting, _ in groups))
    protocols = list(dict.fromkeys(protocol for _, protocol in groups))
    # Room for the points of a setting, and for a legend of two columns.
    height = len(settings) * max(0.5, 0.12 * len(protocols))
    height += 1 + 0.1 * len(protocols)
    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colors = itertools.cycle(SERIES)
    for k, (protocol, color) in enumerate(zip(protocols, colors, strict=False)):
        offset = 0.6 * ((k + 0.5) / len(protocols) - 0.5)
        first = True
        for row, setting in enumerate(settings):
            found = difference(groups.get((setting, protocol), []))
            if found is None:
                continue
            axes.plot(
                [100 * found.low, 100 * found.high],
                [row + offset] * 2,
                color=color,
                linewidth=2,
            )
            axes.plot(
                100 * found.mean,
                row + offset,
                "o",
                color=color,
                label=_title(protocol) if first else None,
            )
            first = False
    axes.axvline(0, color="0.5", linewidth=1)
    names = [_short(setting, settings[0]) for setting in settings]
    axes.set_yticks(range(len(settings)), names)
    axes.invert_yaxis()
    axes.set_xlabel("mAP of MBN minus that of BN, points; 95 % interval")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _short(
    setting: tuple[tuple[str, str], ...], first: tuple[tuple[str, str], ...]
) -> str:
    """What differs from the first setting; of the first, all."""
    changed = [
        f"{n}: {v}" for (n, v), (_, d) in zip(setting, first, strict=True) if v != d
    ]
    return ", ".join(changed) or ", ".join(value for _, value in setting)


def _title(protocol: str) -> str:
    return protocol.replace("_to_", " → ").replace("_", " ")


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = f"{100 * np.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {100 * np.std(values, ddof=1):.1f}"
