"""Tables and charts of an ablation."""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from mbn_jax.analysis.ablation import (
    AS_TRAINED,
    METRICS,
    NO_SPREAD,
    NORMS,
    Difference,
    Result,
    Setting,
    by_setting,
    difference,
    facts_of,
    holm,
    map_by_seed,
    seeds_needed,
)
from mbn_jax.analysis.charts import BLUE, SERIES, legend_label, verbatim


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
                values = [factor * value for value in facts_of(group, norm, fact)]
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
    if len(paired) < 2 or np.ptp(paired) < NO_SPREAD:
        return mean
    low, high = stats.ttest_1samp(paired, 0.0).confidence_interval(0.95)
    return f"{mean} ({100 * low:+.1f} to {100 * high:+.1f})"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


_MARKERS = ("o", "s", "^", "D")


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
    axes.set_yticks(range(len(groups)), [verbatim(label(s, groups)) for s in groups])
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
        gap, found = facts_of(group, "bn", "lasting_training"), difference(group)
        if gap and found:
            low, mean, high = (100 * x for x in (found.low, found.mean, found.high))
            x = float(np.mean(gap))
            axes.plot([x, x], [low, high], color=color, linewidth=2)
            name = legend_label(label(setting, groups))
            axes.plot(x, mean, marker, color=color, label=name)
    axes.axhline(0, color="0.5", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("lasting gap after BN's layers in training, standard deviations")
    axes.set_ylabel("mAP of MBN minus mAP of BN, points")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    return figure
