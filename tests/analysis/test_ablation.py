"""What a grid of runs shows, against figures that are known beforehand."""

import csv
import io
import itertools

import numpy as np
import pytest

from mbn_jax.analysis.ablation import (
    Result,
    as_csv,
    as_markdown,
    difference,
    draw,
)

NIR, THERMAL = (("data", "nir"),), (("data", "thermal"),)


def result(precisions, norm="mbn", seed="0", setting=NIR, protocol="a_to_b"):
    precisions = np.asarray(precisions, float)
    figures = {"rank1": 0.5, "rank10": 0.75, "mINP": 0.25}
    figures["mAP"] = float(np.nanmean(precisions))
    return Result(setting, norm, seed, protocol, figures, precisions, f"{norm}-{seed}")


def pairs(differences, setting=NIR):
    """Runs of both norms whose precisions differ by the rows of a matrix."""
    base = np.linspace(0.2, 0.5, np.shape(differences)[1])
    return [
        result(base + (norm == "mbn") * row, norm, str(seed), setting)
        for seed, row in enumerate(np.asarray(differences))
        for norm in ("bn", "mbn")
    ]


def test_the_mean_difference_is_that_of_the_pairs_and_lies_in_its_interval():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.1, 0.2, (3, 200))
    found = difference(pairs(differences))
    assert found.mean == pytest.approx(differences.mean())
    assert found.low < found.mean < found.high
    assert found.num_seeds == 3


def test_the_interval_is_as_wide_as_chance_makes_it():
    """Where seeds agree, it is that of a mean over queries: ± 1.96 σ / √Q."""
    of_queries = np.random.default_rng(1).normal(0.0, 0.3, 400)
    found = difference(pairs(np.tile(of_queries, (3, 1))))
    expected = 2 * 1.96 * of_queries.std() / 20
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_seeds_that_disagree_widen_the_interval_to_their_range():
    found = difference(pairs([[-0.1] * 50, [0.0] * 50, [0.2] * 50]))
    assert (found.low, found.high) == pytest.approx((-0.1, 0.2))


def test_queries_without_a_match_are_left_out():
    differences = np.full((2, 5), 0.25)
    results = pairs(differences)
    for r in results:
        r.precisions[2] = np.nan
    assert difference(results).mean == pytest.approx(0.25)


def test_only_seeds_that_both_have_are_compared():
    results = pairs([[0.1] * 4, [0.3] * 4])
    assert difference(results[:3]).num_seeds == 1
    assert difference(results[:3]).mean == pytest.approx(0.1)
    assert difference(results[1:2]) is None


def test_the_table_has_a_line_for_every_setting_and_direction():
    results = pairs([[0.1] * 4, [0.3] * 4]) + pairs([[-0.2] * 4], THERMAL)
    header, _, *lines = as_markdown(results).splitlines()
    assert header.startswith("| setting | direction | BN: rank-1 | mAP | MBN: rank-1 |")
    first, second = ([c.strip() for c in line.split("|")[1:-1]] for line in lines)
    assert first[:3] == ["nir", "a → b", "50.0 ± 0.0"]
    assert first[3:] == [
        "35.0 ± 0.0",
        "50.0 ± 0.0",
        "55.0 ± 14.1",
        "+20.0 (+10.0 to +30.0)",
        "2",
    ]
    assert second[0] == "data: thermal"
    assert second[-2:] == ["-20.0 (-20.0 to -20.0)", "1"]
    assert second[3] == "35.0"


def test_the_csv_has_a_line_for_every_run():
    results = pairs([[0.1] * 4, [0.3] * 4])
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    assert [(row["norm"], row["seed"]) for row in rows] == [
        ("bn", "0"),
        ("mbn", "0"),
        ("bn", "1"),
        ("mbn", "1"),
    ]
    assert rows[3]["run"] == "mbn-1"
    assert float(rows[1]["mAP"]) == pytest.approx(results[1].figures["mAP"], abs=1e-6)


def test_the_figure_has_a_point_for_every_direction_of_every_data_set():
    results = pairs([[0.1] * 4])
    for protocol in ("b_to_a", "c_to_d", "d_to_c"):
        results += [r._replace(protocol=protocol) for r in pairs([[0.2] * 4], THERMAL)]
    (axes,) = draw(results).axes
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert len({float(p.get_ydata()[0]) for p in points}) == 4


def test_six_directions_of_three_modalities_have_six_colors_and_names():
    results = []
    for two in itertools.permutations(("visible", "nir", "thermal"), 2):
        protocol = "_to_".join(two)
        results += [r._replace(protocol=protocol) for r in pairs([[0.1] * 4])]
    figure = draw(results)
    (axes,) = figure.axes
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert len({point.get_color() for point in points}) == 6
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names[0] == "visible → nir"
    assert len(set(names)) == 6
    figure.canvas.draw()
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1


def test_the_figure_shows_every_setting():
    results = pairs([[0.1] * 4, [0.3] * 4]) + pairs([[-0.2] * 4], THERMAL)
    figure = draw(results)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "nir",
        "data: thermal",
    ]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [float(p.get_xdata()[0]) for p in points] == pytest.approx([20.0, -20.0])
