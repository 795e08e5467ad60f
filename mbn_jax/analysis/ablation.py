"""The results of a grid of runs, and the differences between BN and MBN.

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
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from mbn_jax.errors import InputError

METRICS = ("rank1", "rank10", "mAP", "mINP")
# Facts about the run, repeated in every line of the CSV: training accuracy over the
# last twentieth of the steps, and the lasting gap after the normalizations, averaged
# over them, in training and in evaluation.
FACTS = ("accuracy", "lasting_training", "lasting_evaluation")
NORMS = ("bn", "mbn")
AS_TRAINED = "as trained"
NO_SPREAD = 1e-9  # of differences: less is rounding
_LAST = ("run",)
_NAMES = ("norm", "seed", "protocol", "statistics")

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
            "`python -m mbn_jax ablate`."
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


def facts_of(results: Sequence[Result], norm: str, name: str) -> list[float]:
    """Returns a fact of every run of a norm, where it was measured."""
    by_run = {r.run: r.facts[name] for r in results if r.norm == norm}
    return [value for value in by_run.values() if not math.isnan(value)]


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
    if n < 2 or np.ptp(paired) < NO_SPREAD:
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


def gap_correlation(results: Sequence[Result]) -> tuple[float, int]:
    """Returns Spearman's correlation of BN's lasting gap with the difference.

    Over the settings that have both, and how many these are; NaN for fewer than three.
    It only describes: settings that share their BN networks are not independent.
    """
    pairs = []
    for group in by_setting(results).values():
        gap, found = facts_of(group, "bn", "lasting_training"), difference(group)
        if gap and found:
            pairs.append((np.mean(gap), found.mean))
    if len(pairs) < 3:
        return math.nan, len(pairs)
    return float(stats.spearmanr(pairs).statistic), len(pairs)


def _protocols(results: Sequence[Result]) -> dict[tuple[str, str], set[str]]:
    """The protocols of every norm and seed, as trained."""
    found: dict[tuple[str, str], set[str]] = {}
    for r in results:
        if r.statistics == AS_TRAINED:
            found.setdefault((r.norm, r.seed), set()).add(r.protocol)
    return found
