"""Tables and charts of the results of a grid of runs."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mbn_jax.analysis import ablation
from mbn_jax.analysis.ablation import AS_TRAINED, NORMS, Result, by_setting
from mbn_jax.analysis.charts import BLUE, SERIES, legend_label, png, verbatim
from mbn_jax.errors import InputError
from mbn_jax.files import write_atomically


def as_markdown(results: Sequence[Result]) -> str:
    """Returns the differences of all settings as a table, in percent."""
    groups = by_setting(results)
    found = [ablation.difference(group) for group in groups.values()]
    p_values = [math.nan if d is None else d.p for d in found]
    rows = []
    for (setting, group), d, *p in zip(
        groups.items(), found, p_values, ablation.holm(p_values), strict=True
    ):
        needed = None if d is None else ablation.seeds_needed(d.deviation)
        maps = ablation.map_by_seed(group)
        cells = [label(setting, groups), str(0 if d is None else d.num_seeds)]
        cells += [mean_and_deviation(maps[norm].values()) for norm in NORMS]
        cells.append(_with_interval(d))
        cells += map(_p_value, p)
        for fact, digits, factor in (("accuracy", 1, 100), ("lasting_training", 3, 1)):
            for norm in NORMS:
                values = [
                    factor * value for value in ablation.facts_of(group, norm, fact)
                ]
                cells.append(f"{np.mean(values):.{digits}f}" if values else "–")
        rows.append([*cells, "–" if needed is None else str(needed)])
    return _table(
        "setting|seeds|BN, mAP|MBN, mAP|MBN − BN (95 %)|p|p, Holm|BN, accuracy|"
        "MBN, accuracy|BN, lasting gap|MBN, lasting gap|seeds to see 1 point",
        rows,
    )


def directions_as_markdown(results: Sequence[Result]) -> str:
    """Returns the metrics of every setting, direction and norm, in percent."""
    as_trained = by_setting([r for r in results if r.statistics == AS_TRAINED])
    rows = []
    for setting, group in as_trained.items():
        for protocol in dict.fromkeys(r.protocol for r in group):
            for norm in NORMS:
                found = [r for r in group if (r.norm, r.protocol) == (norm, protocol)]
                cells = [label(setting, as_trained), title(protocol), norm.upper()]
                for name in ablation.METRICS:
                    cells.append(mean_and_deviation(r.metrics[name] for r in found))
                rows.append(cells)
    return _table("setting|direction|norm|rank-1|rank-10|mAP|mINP", rows)


def controls_as_markdown(results: Sequence[Result]) -> str:
    """Returns mAP with other running statistics minus that as trained, in points.

    The mean over the protocols, of every run that has both; mean and 95 % interval of
    the t test over the seeds.
    """
    groups = by_setting(results)
    controls = dict.fromkeys(
        r.statistics for r in results if r.statistics != AS_TRAINED
    )
    rows = []
    for setting, group in groups.items():
        for norm in NORMS:
            trained = ablation.map_by_seed(group)[norm]
            if not trained:
                continue
            cells = [label(setting, groups), norm.upper()]
            cells.append(mean_and_deviation(trained.values()))
            for control in controls:
                other = ablation.map_by_seed(group, control)[norm]
                seeds = sorted(trained.keys() & other.keys())
                paired = [other[seed] - trained[seed] for seed in seeds]
                cells.append(_with_interval(ablation.paired_t_test(paired)))
            rows.append(cells)
    return _table("|".join(["setting", "norm", f"mAP, {AS_TRAINED}", *controls]), rows)


def label(setting: ablation.Setting, settings: Iterable[ablation.Setting]) -> str:
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
    return mean if len(values) == 1 else f"{mean} ± {100 * np.std(values, ddof=1):.1f}"


def _with_interval(found: ablation.Difference | None) -> str:
    if found is None:
        return "–"
    mean = f"{100 * found.mean:+.1f}"
    if math.isnan(found.low):
        return mean
    return f"{mean} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _p_value(p: float) -> str:
    if math.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _table(titles: str, rows: Sequence[Sequence[str]]) -> str:
    columns = titles.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def draw(results: Sequence[Result]) -> Figure:
    """Draws the differences of all settings with their intervals."""
    groups = by_setting(results)
    figure = Figure(figsize=(8, 1.2 + 0.36 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for row, group in enumerate(groups.values()):
        found = ablation.difference(group)
        if found:
            ends = [100 * found.low, 100 * found.high]
            axes.plot(ends, [row, row], color=BLUE, lw=2)
            axes.plot(100 * found.mean, row, "o", color=BLUE)
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
    axes = figure.subplots()
    # Ten colors with four markers tell forty settings apart.
    styles = itertools.cycle(itertools.product("os^D", SERIES))
    for (setting, group), (marker, color) in zip(groups.items(), styles, strict=False):
        gap, found = (
            ablation.facts_of(group, "bn", "lasting_training"),
            ablation.difference(group),
        )
        if gap and found:
            x, name = float(np.mean(gap)), legend_label(label(setting, groups))
            ends = [100 * found.low, 100 * found.high]
            axes.plot([x, x], ends, color=color, lw=2)
            axes.plot(x, 100 * found.mean, marker, color=color, label=name)
    axes.axhline(0, color="0.5", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("lasting gap after BN's layers in training, standard deviations")
    axes.set_ylabel("mAP of MBN minus mAP of BN, points")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    return figure


def write_tables(results: Sequence[Result], workdir: Path) -> str:
    """Writes ablation.csv, ablation.md, ablation.png and by_gap.png.

    Args:
        results: The results of the runs that are compared.
        workdir: Where the files are written.

    Returns:
        The tables of ablation.md.

    Raises:
        InputError: There are no results, or a run is there twice.
    """
    if not results:
        raise InputError(f"No run in {workdir} is finished.")
    ablation.check_distinct(results)
    tables = [
        as_markdown(results),
        directions_as_markdown(results),
        controls_as_markdown(results),
    ]
    correlation, num_settings = ablation.gap_correlation(results)
    if num_settings >= 3:
        tables.append(
            "Spearman's correlation of BN's lasting gap with the difference, over "
            f"{num_settings} settings: {correlation:+.2f}\n"
        )
    text = "\n".join(tables)
    write_atomically(workdir / "ablation.csv", ablation.as_csv(results).encode())
    write_atomically(workdir / "ablation.md", text.encode())
    for name, figure in (
        ("ablation.png", draw(results)),
        ("by_gap.png", draw_by_gap(results)),
    ):
        write_atomically(workdir / name, png(figure, dpi=150))
    return text
