"""What a grid of runs shows, against numbers that are known beforehand."""

import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from mbn_jax import InputError
from mbn_jax.analysis.ablation import (
    AS_TRAINED,
    Result,
    as_csv,
    by_setting,
    check_distinct,
    difference,
    gap_correlation,
    holm,
    map_by_seed,
    read_csv,
    seeds_needed,
)
from mbn_jax.analysis.ablation_tables import (
    as_markdown,
    controls_as_markdown,
    directions_as_markdown,
    draw,
    draw_by_gap,
)

NIR, THERMAL = (("data", "nir"),), (("data", "thermal"),)
BOTH = ("a_to_b", "b_to_a")


def result(mean_ap, norm="mbn", seed="0", setting=NIR, protocol="a_to_b", **changes):
    metrics = {"rank1": 0.5, "rank10": 0.75, "mAP": mean_ap, "mINP": 0.25}
    facts = {"accuracy": 0.97, "lasting_training": 0.2, "lasting_evaluation": math.nan}
    made = Result(
        setting, norm, seed, protocol, AS_TRAINED, metrics, facts, f"{norm}-{seed}"
    )
    return made._replace(**changes)


def pairs(differences, setting=NIR, protocols=BOTH):
    """Runs of both norms whose mAP differ by the given numbers, seed by seed."""
    return [
        result(0.3 + 0.01 * seed + (norm == "mbn") * d, norm, str(seed), setting, p)
        for seed, d in enumerate(differences)
        for norm in ("bn", "mbn")
        for p in protocols
    ]


def cells(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_measure_is_the_mean_over_both_directions():
    results = [result(0.2), result(0.5, protocol="b_to_a")]
    assert map_by_seed(results)["mbn"] == {"0": pytest.approx(0.35)}


def test_the_interval_and_the_p_value_are_those_of_the_paired_t_test():
    found = difference(pairs([0.01, 0.03, -0.01, 0.02]))
    # By hand: mean 0.0125, standard deviation 0.0170783, t(0.975, 3) = 3.182446.
    assert found.mean == pytest.approx(0.0125)
    assert found.deviation == pytest.approx(0.0170783, rel=1e-5)
    half = 3.1824463 * 0.01707825 / 2
    assert (found.low, found.high) == pytest.approx((0.0125 - half, 0.0125 + half))
    bn = [0.30, 0.31, 0.32, 0.33]
    mbn = [0.31, 0.34, 0.31, 0.35]
    assert found.p == pytest.approx(stats.ttest_rel(mbn, bn).pvalue)
    assert found.num_seeds == 4


def test_other_statistics_than_those_trained_do_not_enter_the_difference():
    results = pairs([0.1, 0.3])
    others = [r._replace(statistics="pooled", metrics={"mAP": 0.0}) for r in results]
    assert difference(results + others) == difference(results)


def test_only_seeds_that_both_have_are_compared():
    results = pairs([0.1, 0.3], protocols=["a_to_b"])
    found = difference(results[:3])
    assert found.num_seeds == 1
    assert found.mean == pytest.approx(0.1)
    assert math.isnan(found.low)
    assert math.isnan(found.p)
    assert difference(results[1:2]) is None


def test_equal_differences_have_no_interval():
    """From pairs that happen to differ by the same, no deviation can be estimated."""
    for number in (2, 4):
        found = difference(pairs([0.01] * number))
        assert found.mean == pytest.approx(0.01)
        assert math.isnan(found.p)
        assert math.isnan(found.deviation)


def test_a_seed_is_paired_by_the_same_protocols_only():
    results = pairs([0.1, 0.3])
    lacking = [
        r for r in results if (r.norm, r.seed, r.protocol) != ("bn", "1", "b_to_a")
    ]
    assert difference(lacking).num_seeds == 1


def test_a_run_that_is_there_twice_is_an_error():
    results = pairs([0.1, 0.3])
    check_distinct(results)
    again = results[2]._replace(run="another", setting=results[2].setting[::-1])
    with pytest.raises(
        InputError, match=r"Seed 0 of mbn .*nir is there twice, as mbn-0"
    ):
        check_distinct([*results, again])


def test_the_order_of_the_axes_does_not_matter():
    axes = (("data", "nir"), ("loss", "wrt"))
    results = pairs([0.1], axes)
    results += [r._replace(seed="1") for r in pairs([0.3], axes[::-1])]
    ((_, group),) = by_setting(results).items()
    assert difference(group).num_seeds == 2


def test_holm_multiplies_by_the_number_of_hypotheses_that_are_left():
    # Smallest first: 4 x 0.01, 3 x 0.02, 2 x 0.03 raised to 0.06, 1 x 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    missing, present = holm([math.nan, 0.04])
    assert math.isnan(missing)
    assert present == pytest.approx(0.04)


def test_as_many_seeds_as_needed_have_the_power_that_was_asked_for():
    """Of many simulated studies with so many seeds, four in five find the effect."""
    n = seeds_needed(0.012, effect=0.01)
    drawn = np.random.default_rng(0).normal(0.01, 0.012, (20_000, n))
    found = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05
    assert 0.79 < found.mean() < 0.87
    fewer = stats.ttest_1samp(drawn[:, 1:], 0.0, axis=1).pvalue < 0.05
    assert fewer.mean() < 0.8


def test_without_a_deviation_the_number_of_seeds_is_not_known():
    assert seeds_needed(math.nan) is None
    assert seeds_needed(1e-6) == 2


def test_the_table_has_a_line_for_every_setting():
    results = pairs([0.1, 0.3]) + pairs([-0.2], THERMAL)
    header, _, *lines = as_markdown(results).splitlines()
    assert cells(header)[:5] == [
        "setting",
        "seeds",
        "BN, mAP",
        "MBN, mAP",
        "MBN − BN (95 %)",
    ]
    first, second = map(cells, lines)
    assert first[:4] == ["nir", "2", "30.5 ± 0.7", "50.5 ± 14.8"]
    assert first[4] == "+20.0 (-107.1 to +147.1)"
    assert first[7:11] == ["97.0", "97.0", "0.200", "0.200"]
    assert second[:5] == ["thermal", "1", "30.0", "10.0", "-20.0"]
    assert second[-1] == "–"


def test_settings_are_named_by_the_axes_that_vary():
    one = (("data", "nir"), ("loss", "wrt"))
    other = (("data", "thermal"), ("loss", "wrt"))
    lines = as_markdown(pairs([0.1], one) + pairs([0.1], other)).splitlines()[2:]
    assert [cells(line)[0] for line in lines] == ["nir", "thermal"]
    (line,) = as_markdown(pairs([0.1], one)).splitlines()[2:]
    assert cells(line)[0] == "nir, wrt"


def test_every_direction_and_norm_has_its_metrics():
    lines = directions_as_markdown(pairs([0.1, 0.1])).splitlines()[2:]
    assert [cells(line)[1:3] for line in lines] == [
        ["a → b", "BN"],
        ["a → b", "MBN"],
        ["b → a", "BN"],
        ["b → a", "MBN"],
    ]
    assert cells(lines[1])[3:6] == ["50.0 ± 0.0", "75.0 ± 0.0", "40.5 ± 0.7"]


def test_controls_are_compared_with_the_same_network_as_trained():
    results = pairs([0.1, 0.1])
    for r in pairs([0.1, 0.1]):
        if r.norm == "mbn":
            lower = {**r.metrics, "mAP": r.metrics["mAP"] - 0.05}
            results.append(r._replace(statistics="pooled", metrics=lower))
    header, _, bn, mbn = map(cells, controls_as_markdown(results).splitlines())
    assert header == ["setting", "norm", "mAP, as trained", "pooled"]
    assert bn[1:] == ["BN", "30.5 ± 0.7", "–"]
    assert mbn[1] == "MBN"
    assert mbn[3].startswith("-5.0")


def test_the_csv_gives_back_what_was_written():
    results = pairs([0.1, 0.3]) + pairs([0.2], THERMAL)
    text = as_csv(results)
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(results)
    again = read_csv(text, "a.csv")
    assert as_markdown(again) == as_markdown(results)
    assert as_csv(again) == text
    assert math.isnan(again[0].facts["lasting_evaluation"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("mINP", "other"), "a.csv lacks the column 'mINP'"),
        (lambda text: text.replace("0.500000", "half"), "a.csv, line 2: .*'half'"),
        (lambda text: "", "a.csv lacks the column 'norm'"),
    ],
)
def test_a_csv_of_something_else_is_an_error(change, message):
    with pytest.raises(InputError, match=message):
        read_csv(change(as_csv(pairs([0.1]))), "a.csv")


def test_the_correlation_is_that_of_ranks_over_the_settings():
    results = []
    for i, (gap, gain) in enumerate([(0.1, 0.0), (0.2, 0.03), (0.4, 0.02)]):
        for r in pairs([gain, gain], (("data", str(i)),)):
            results.append(r._replace(facts={**r.facts, "lasting_training": gap}))
    # Ranks 1, 2, 3 against 1, 3, 2: 1 - 6 · 2 / (3 · 8).
    assert gap_correlation(results) == (pytest.approx(0.5), 3)
    few, number = gap_correlation(results[:16])
    assert math.isnan(few)
    assert number == 2


def points(figure):
    (axes,) = figure.axes
    return axes, [line for line in axes.lines if line.get_marker() == "o"]


def test_the_figure_shows_every_setting():
    figure = draw(pairs([0.1, 0.3]) + pairs([-0.2], THERMAL))
    axes, found = points(figure)
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["nir", "thermal"]
    assert [float(p.get_xdata()[0]) for p in found] == pytest.approx([20.0, -20.0])


def test_the_other_figure_shows_the_difference_over_the_gap():
    _, found = points(draw_by_gap(pairs([0.1, 0.3]) + pairs([-0.2], THERMAL)))
    assert [float(p.get_xdata()[0]) for p in found] == pytest.approx([0.2, 0.2])
    assert [float(p.get_ydata()[0]) for p in found] == pytest.approx([20.0, -20.0])
