"""The results of a grid of runs, and the differences between MBN and BN.

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
_NO_SPREAD = 1e-9  # of differences: less is rounding
_NAMES = ("norm", "seed", "protocol", "statistics")
_COLUMNS = (*_NAMES, *METRICS, *FACTS, "run")  # after those of the setting

Setting = tuple[tuple[str, str], ...]


class Result(NamedTuple):
    """A run by one protocol, with one choice of running statistics.

    Attributes:
        setting: Values of the axes except norm and seed, by name.
        norm: "bn" or "mbn".
        seed: The run's seed.
        protocol: Its name.
        statistics: The running statistics, `AS_TRAINED` or the name of a control.
        metrics: The `METRICS`, as fractions.
        facts: The `FACTS` of the run; NaN where they were not measured.
        run: Name of its directory; a run may belong to several settings.
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
    """The mean of paired differences of mAP, in fractions, and its paired t test.

    All but the mean is NaN for fewer than two pairs, and for pairs that all differ by
    the same.

    Attributes:
        mean: The mean over the pairs.
        low: Lower end of the 95 % interval.
        high: Upper end of the interval.
        p: The two-sided p-value.
        deviation: Standard deviation of the differences.
        num_seeds: The number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    deviation: float
    num_seeds: int


def as_csv(results: Sequence[Result]) -> str:
    """Returns one line for each run, protocol and choice of statistics."""
    axes = dict.fromkeys(name for r in results for name, _ in r.setting)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, *_COLUMNS])
    for r in results:
        numbers = [r.metrics[name] for name in METRICS]
        numbers += [r.facts[name] for name in FACTS]
        writer.writerow(
            [
                *(dict(r.setting).get(axis, "") for axis in axes),
                *(r.norm, r.seed, r.protocol, r.statistics),
                *("" if math.isnan(number) else f"{number:.6f}" for number in numbers),
                r.run,
            ]
        )
    return text.getvalue()


def read_csv(text: str, name: str) -> list[Result]:
    """Returns the results in the text of a CSV that `as_csv` has written.

    Args:
        text: The file's content.
        name: The file's name, for errors.

    Raises:
        InputError: A column is missing, or a value is not a number.
    """
    reader = csv.DictReader(io.StringIO(text))
    columns = list(reader.fieldnames or [])
    missing = [column for column in _COLUMNS if column not in columns]
    if missing:
        raise InputError(
            f"{name} lacks the column {missing[0]!r}, expected an ablation.csv of "
            "`python -m mbn_jax ablate`."
        )
    axes = [column for column in columns if column not in _COLUMNS]
    results = []
    for line, row in enumerate(reader, start=2):
        try:
            metrics, facts = (
                {key: float(row[key] or "nan") for key in keys}
                for keys in (METRICS, FACTS)
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}, line {line}: {error}.") from error
        setting = tuple((axis, row[axis]) for axis in axes if row[axis])
        names = (row[key] for key in _NAMES)
        results.append(Result._make([setting, *names, metrics, facts, row["run"]]))
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
        InputError: One is; the message names both.
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


def map_by_protocol(
    results: Sequence[Result], statistics: str = AS_TRAINED
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns mAP by norm, seed and protocol, of one setting."""
    values: dict[str, dict[str, dict[str, float]]] = {norm: {} for norm in NORMS}
    for r in results:
        if r.statistics == statistics:
            of_seed = values.setdefault(r.norm, {}).setdefault(r.seed, {})
            of_seed[r.protocol] = r.metrics["mAP"]
    return values


def map_by_seed(
    results: Sequence[Result], statistics: str = AS_TRAINED
) -> dict[str, dict[str, float]]:
    """Returns mAP, averaged over the protocols, by norm and seed, of one setting."""
    return {
        norm: {seed: float(np.mean([*maps.values()])) for seed, maps in of_norm.items()}
        for norm, of_norm in map_by_protocol(results, statistics).items()
    }


def facts_of(results: Sequence[Result], norm: str, name: str) -> list[float]:
    """Returns a fact of every run of a norm, where it was measured."""
    by_run = {r.run: r.facts[name] for r in results if r.norm == norm}
    return [value for value in by_run.values() if not math.isnan(value)]


def difference(results: Sequence[Result]) -> Difference | None:
    """Returns the paired difference MBN − BN of one setting; None without a pair.

    Args:
        results: The results of one setting, with both norms. A seed counts if both
            norms have it, by the same protocols.
    """
    protocols, maps = map_by_protocol(results), map_by_seed(results)
    return paired_t_test(
        [
            maps["mbn"][seed] - maps["bn"][seed]
            for seed in sorted(maps["mbn"].keys() & maps["bn"].keys())
            if protocols["mbn"][seed].keys() == protocols["bn"][seed].keys()
        ]
    )


def paired_t_test(differences: Sequence[float]) -> Difference | None:
    """Returns the test of one difference for each seed; None without any."""
    if not differences:
        return None
    mean, n = float(np.mean(differences)), len(differences)
    if n < 2 or np.ptp(differences) < _NO_SPREAD:
        return Difference(mean, math.nan, math.nan, math.nan, math.nan, n)
    test = stats.ttest_1samp(differences, 0.0)
    low, high = map(float, test.confidence_interval(0.95))
    deviation = float(np.std(differences, ddof=1))
    return Difference(mean, low, high, float(test.pvalue), deviation, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number; NaN stays and does not count.

    Reference: Holm, "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 6, 1979.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)  # NaN last
    num_left = np.count_nonzero(~np.isnan(p)) - np.arange(len(p))
    p[order] = np.minimum(1, np.maximum.accumulate(num_left * p[order]))
    return p.tolist()


def seeds_needed(deviation: float, effect: float = 0.01) -> int | None:
    """Returns how many pairs of runs the paired t test needs to detect an effect.

    It detects it with a probability of 80 % at the level of 5 %. The power of $n$ pairs
    is that of the noncentral t distribution with $n - 1$ degrees of freedom and
    noncentrality $\\sqrt{n}$ effect / deviation (Cohen, "Statistical Power Analysis for
    the Behavioral Sciences", 1988).

    Args:
        deviation: Standard deviation of the paired differences.
        effect: The true mean difference, in the same unit.

    Returns:
        The smallest number of pairs, at least 2, above 200 rounded up to the next 50;
        None for a deviation of NaN, or if 10,000 do not suffice.
    """
    if math.isnan(deviation):
        return None
    for n in itertools.chain(range(2, 200), range(200, 10_001, 50)):
        critical = stats.t.isf(0.025, n - 1)
        away = math.sqrt(n) * effect / deviation
        found = stats.nct.sf(critical, n - 1, away)
        found += stats.nct.cdf(-critical, n - 1, away)
        if found >= 0.8:
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
