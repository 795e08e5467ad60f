"""Summarizes a grid of runs: tables, differences between BN and MBN, and charts.

* The measure is mAP at the last step, averaged over the protocols (both directions).
* Runs with the same seed see the same batches and start from the same weights, so the
  difference is taken seed by seed. Its interval and p-value are those of the paired t
  test: seeds are the sample, and the data are fixed.
* With many settings, some differ by chance. Holm's correction bounds the probability
  of any false positive.
"""

import csv
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from mbn_jax.analysis.charts import BLUE, SERIES
from mbn_jax.errors import InputError

METRICS = ("rank1", "rank10", "mAP", "mINP")
# Facts about the run, repeated in every line of the CSV: training accuracy over the
# last twentieth of the steps, and the lasting gap after the normalizations, averaged
# over them, in training and in evaluation.
FACTS = ("accuracy", "lasting_training", "lasting_evaluation")
NORMS = ("bn", "mbn")
AS_TRAINED = "as trained"
_LAST = ("run",)
_NAMES = ("norm", "seed", "protocol", "statistics")
_NO_SPREAD = 1e-9  # of differences: less is rounding
_MARKERS = ("o", "s", "^", "D")

Setting = tuple[tuple[str, str], ...]


class Result(NamedTuple):
    """A run by one protocol, with one choice of running statistics.

    Attributes:
      setting: values of the axes except norm and seed, by name.
      norm: "bn" or "mbn".
      seed: the run's seed.
      protocol: its name.
      statistics: the running statistics, `AS_TRAINED` or one of the controls of
        `mbn_jax.training.controls`.
      metrics: the `METRICS`, as fractions.
      facts: the `FACTS` of the run; NaN where they were not measured.
      run: name of its directory; a run may belong to several settings.
    """

    setting: Setting
    norm: str
    seed: str
    protocol: str
    statistics: str
    metrics: Mapping[str, float]
    facts: Mapping[str, float]
    run: str


class Difference(NamedTuple):
    """MBN − BN in one setting, in fractions of mAP.

    Attributes:
      mean: over the paired seeds.
      low, high: the 95 % interval of the paired t test; NaN, like the next two, for
        fewer than two pairs and for pairs that all differ by the same.
      p: p-value of the paired t test, two-sided.
      deviation: standard deviation of the paired differences.
      num_seeds: the seeds that both have.
    """

    mean: float
    low: float
    high: float
    p: float
    deviation: float
    num_seeds: int


def as_csv(results: Sequence[Result]) -> str:
    """Returns one line for each run, protocol and choice of statistics."""
    text = io.StringIO()
    axes = list(dict.fromkeys(name for r in results for name, _ in r.setting))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, *_NAMES, *METRICS, *FACTS, *_LAST])
    for result in results:
        values = dict(result.setting)
        numbers = [result.metrics[name] for name in METRICS]
        numbers += [result.facts[name] for name in FACTS]
        writer.writerow(
            [
                *(values.get(axis, "") for axis in axes),
                *(getattr(result, name) for name in _NAMES),
                *("" if math.isnan(number) else f"{number:.6f}" for number in numbers),
                result.run,
            ]
        )
    return text.getvalue()


def read_csv(text: str, name: str) -> list[Result]:
    """Returns the results in the text of a CSV that `as_csv` has written.

    Args:
      text: the file's content.
      name: the file's name, for errors.

    Raises:
      InputError: a column is missing, or a value is not a number.
    """
    reader = csv.DictReader(io.StringIO(text))
    columns = list(reader.fieldnames or [])
    known = [*_NAMES, *METRICS, *FACTS, *_LAST]
    missing = [column for column in known if column not in columns]
    if missing:
        raise InputError(
            f"{name} lacks the column {missing[0]!r}, expected an ablation.csv of "
            "experiments/ablate.py."
        )
    axes = [column for column in columns if column not in known]
    results = []
    for line, row in enumerate(reader, start=2):
        try:
            metrics = {key: float(row[key] or "nan") for key in METRICS}
            facts = {key: float(row[key] or "nan") for key in FACTS}
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}, line {line}: {error}.") from error
        setting = tuple((axis, row[axis]) for axis in axes if row[axis])
        norm, seed, protocol, statistics = (row[key] for key in _NAMES)
        results.append(
            Result(
                setting, norm, seed, protocol, statistics, metrics, facts, row["run"]
            )
        )
    return results


def by_setting(results: Sequence[Result]) -> dict[Setting, list[Result]]:
    """Returns the results of every setting, in the order of the first."""
    groups: dict[frozenset[tuple[str, str]], list[Result]] = {}
    for result in results:  # of several files, whose axes may be in another order
        groups.setdefault(frozenset(result.setting), []).append(result)
    return {group[0].setting: group for group in groups.values()}


def check_distinct(results: Sequence[Result]) -> None:
    """Checks that no run is there twice: it would count twice in every mean.

    Raises:
      InputError: one is; the message names both.
    """
    runs: dict[tuple[object, ...], Result] = {}
    for r in results:
        key = frozenset(r.setting), r.norm, r.seed, r.protocol, r.statistics
        other = runs.setdefault(key, r)
        if other is not r:
            raise InputError(
                f"Seed {r.seed} of {r.norm} in the setting "
                f"{', '.join(value for _, value in r.setting)} is there twice, as "
                f"{other.run} and as {r.run}: give each run once."
            )


def map_by_seed(
    results: Sequence[Result], statistics: str = AS_TRAINED
) -> dict[str, dict[str, float]]:
    """Returns mAP, averaged over the protocols, by norm and seed, of one setting."""
    values: dict[str, dict[str, list[float]]] = {norm: {} for norm in NORMS}
    for result in results:
        if result.statistics == statistics:
            of_norm = values.setdefault(result.norm, {})
            of_norm.setdefault(result.seed, []).append(result.metrics["mAP"])
    return {
        norm: {seed: float(np.mean(maps)) for seed, maps in of_norm.items()}
        for norm, of_norm in values.items()
    }


def difference(results: Sequence[Result]) -> Difference | None:
    """Returns the paired difference MBN − BN of one setting; None without a pair.

    Args:
      results: the results of one setting, with both norms. A seed counts if both norms
        have it, by the same protocols.
    """
    maps, protocols = map_by_seed(results), _protocols(results)
    seeds = sorted(
        seed
        for seed in maps["mbn"].keys() & maps["bn"].keys()
        if protocols["mbn", seed] == protocols["bn", seed]
    )
    if not seeds:
        return None
    paired = np.array([maps["mbn"][seed] - maps["bn"][seed] for seed in seeds])
    mean, n = float(paired.mean()), len(seeds)
    if n < 2 or np.ptp(paired) < _NO_SPREAD:
        return Difference(mean, math.nan, math.nan, math.nan, math.nan, n)
    deviation = float(paired.std(ddof=1))
    test = stats.ttest_1samp(paired, 0.0)
    low, high = test.confidence_interval(0.95)
    return Difference(mean, float(low), float(high), float(test.pvalue), deviation, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number; NaN stays and does not count.

    Reference: Holm, "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 6, 1979.
    """
    order = [i for i in np.argsort(p_values) if not math.isnan(p_values[i])]
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def seeds_needed(
    deviation: float, effect: float = 0.01, power: float = 0.8, level: float = 0.05
) -> int | None:
    """Returns how many pairs of runs the paired t test needs to detect an effect.

    The power of $n$ pairs is that of the noncentral t distribution with $n - 1$ degrees
    of freedom and noncentrality $\\sqrt{n}$ effect / deviation (Cohen, "Statistical
    Power Analysis for the Behavioral Sciences", 1988).

    Args:
      deviation: standard deviation of the paired differences.
      effect: the true mean difference, in the same unit.
      power: the probability of detecting the effect.
      level: the level of the two-sided test.

    Returns:
      The smallest number of pairs, at least 2, above 200 rounded up to the next 50;
      None for a deviation of NaN, or if 10,000 do not suffice.
    """
    if math.isnan(deviation):
        return None
    for n in itertools.chain(range(2, 200), range(200, 10_001, 50)):
        critical = stats.t.isf(level / 2, n - 1)
        away = math.sqrt(n) * effect / deviation
        found = stats.nct.sf(critical, n - 1, away)
        found += stats.nct.cdf(-critical, n - 1, away)
        if found >= power:
            return n
    return None


def as_markdown(results: Sequence[Result]) -> str:
    """Returns the differences of all settings as a table, in percent."""
    groups = by_setting(results)
    found = {setting: difference(group) for setting, group in groups.items()}
    corrected = holm([d.p if d else math.nan for d in found.values()])
    titles = "setting|seeds|BN, mAP|MBN, mAP|MBN − BN (95 %)|p|p, Holm"
    titles += "|BN, accuracy|MBN, accuracy|BN, lasting gap|MBN, lasting gap"
    titles += "|seeds to see 1 point"
    rows = []
    for (setting, group), p_holm in zip(groups.items(), corrected, strict=True):
        of_setting, maps = found[setting], map_by_seed(group)
        cells = [label(setting, groups), str(of_setting.num_seeds if of_setting else 0)]
        cells += [mean_and_deviation(maps[norm].values()) for norm in NORMS]
        cells += _test_cells(of_setting, p_holm)
        for fact, digits, factor in (("accuracy", 1, 100), ("lasting_training", 3, 1)):
            for norm in NORMS:
                values = [factor * value for value in _facts(group, norm, fact)]
                cells.append(f"{np.mean(values):.{digits}f}" if values else "–")
        needed = seeds_needed(of_setting.deviation) if of_setting else None
        cells.append("–" if needed is None else str(needed))
        rows.append(cells)
    return _table(titles.split("|"), rows)


def directions_as_markdown(results: Sequence[Result]) -> str:
    """Returns the metrics of every setting, direction and norm, in percent."""
    groups = by_setting(results)
    rows = []
    for setting, group in groups.items():
        as_trained = [r for r in group if r.statistics == AS_TRAINED]
        for protocol in dict.fromkeys(r.protocol for r in as_trained):
            for norm in NORMS:
                of_norm = [
                    r.metrics
                    for r in as_trained
                    if r.norm == norm and r.protocol == protocol
                ]
                cells = [label(setting, groups), title(protocol), norm.upper()]
                cells += [
                    mean_and_deviation([metrics[name] for metrics in of_norm])
                    for name in METRICS
                ]
                rows.append(cells)
    titles = "setting|direction|norm|rank-1|rank-10|mAP|mINP"
    return _table(titles.split("|"), rows)


def controls_as_markdown(results: Sequence[Result]) -> str:
    """Returns mAP with other running statistics minus that as trained, in points.

    The mean over the protocols, of every run that has both; mean and 95 % interval of
    the t test over the seeds.
    """
    groups = by_setting(results)
    controls = list(dict.fromkeys(r.statistics for r in results))
    controls = [name for name in controls if name != AS_TRAINED]
    rows = []
    for setting, group in groups.items():
        for norm in NORMS:
            trained = map_by_seed(group)[norm]
            if not trained:
                continue
            cells = [label(setting, groups), norm.upper()]
            cells.append(mean_and_deviation(trained.values()))
            for control in controls:
                other = map_by_seed(group, control)[norm]
                seeds = sorted(trained.keys() & other.keys())
                paired = [other[seed] - trained[seed] for seed in seeds]
                cells.append(_mean_and_interval(paired))
            rows.append(cells)
    return _table(["setting", "norm", f"mAP, {AS_TRAINED}", *controls], rows)


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
    axes.set_yticks(range(len(groups)), [label(s, groups) for s in groups])
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
        gap, found = _facts(group, "bn", "lasting_training"), difference(group)
        if gap and found:
            low, mean, high = (100 * x for x in (found.low, found.mean, found.high))
            x = float(np.mean(gap))
            axes.plot([x, x], [low, high], color=color, linewidth=2)
            name = label(setting, groups)
            axes.plot(x, mean, marker, color=color, label=name)
    axes.axhline(0, color="0.5", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("lasting gap after BN's layers in training, standard deviations")
    axes.set_ylabel("mAP of MBN minus mAP of BN, points")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    return figure


def gap_correlation(results: Sequence[Result]) -> tuple[float, int]:
    """Returns Spearman's correlation of BN's lasting gap with the difference.

    Over the settings that have both, and how many these are; NaN for fewer than three.
    It only describes: settings that share their BN networks are not independent.
    """
    pairs = []
    for group in by_setting(results).values():
        gap, found = _facts(group, "bn", "lasting_training"), difference(group)
        if gap and found:
            pairs.append((np.mean(gap), found.mean))
    if len(pairs) < 3:
        return math.nan, len(pairs)
    return float(stats.spearmanr(pairs).statistic), len(pairs)


def label(setting: Setting, settings: Iterable[Setting]) -> str:
    """Returns the values of a setting that not all settings have, or all of its own."""
    common = set.intersection(*map(set, settings))
    own = [value for axis, value in setting if (axis, value) not in common]
    return ", ".join(own or [value for _, value in setting]) or "–"


def title(protocol: str) -> str:
    """Returns the name of a protocol for people: `a → b`."""
    return protocol.replace("_to_", " → ").replace("_", " ")


def mean_and_deviation(values: Iterable[float]) -> str:
    """Returns `mean ± standard deviation` in percent."""
    values = list(values)
    if not values:
        return "–"
    mean = f"{100 * np.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {100 * np.std(values, ddof=1):.1f}"


def _protocols(results: Sequence[Result]) -> dict[tuple[str, str], set[str]]:
    """The protocols of every norm and seed, as trained."""
    found: dict[tuple[str, str], set[str]] = {}
    for r in results:
        if r.statistics == AS_TRAINED:
            found.setdefault((r.norm, r.seed), set()).add(r.protocol)
    return found


def _facts(results: Sequence[Result], norm: str, name: str) -> list[float]:
    """A fact of every run of a norm, once for each run, where it was measured."""
    by_run = {r.run: r.facts[name] for r in results if r.norm == norm}
    return [value for value in by_run.values() if not math.isnan(value)]


def _test_cells(found: Difference | None, p_holm: float) -> list[str]:
    """The difference with its interval, its p-value and the corrected one."""
    if found is None:
        return ["–"] * 3
    if math.isnan(found.p):
        return [f"{100 * found.mean:+.1f}", "–", "–"]
    interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    cells = [f"{100 * found.mean:+.1f} ({interval})"]
    return cells + [f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in (found.p, p_holm)]


def _mean_and_interval(paired: Sequence[float]) -> str:
    if not paired:
        return "–"
    mean = f"{100 * np.mean(paired):+.1f}"
    if len(paired) < 2 or np.ptp(paired) < _NO_SPREAD:
        return mean
    low, high = stats.ttest_1samp(paired, 0.0).confidence_interval(0.95)
    return f"{mean} ({100 * low:+.1f} to {100 * high:+.1f})"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
