"""Tables and charts of made-up gaps."""

import csv
import io
import itertools
import re

import numpy as np
import pytest

from mbn_jax.analysis.charts import BLUE, ORANGE
from mbn_jax.analysis.gap import SIDES, Gap, as_json, pair, read_gaps
from mbn_jax.analysis.gap_charts import (
    Kind,
    Measured,
    as_csv,
    as_markdown,
    draw_gaps,
    gap_sections,
    kinds,
    write_gaps,
)
from mbn_jax.errors import InputError
from mbn_jax.files import write_json

LAYERS = [
    "backbone/norm1",
    "backbone/stage1_block1/norm1",
    "backbone/stage1_block1/norm2",
    "backbone/stage2_block1/norm1",
    "neck",
]


# Titles of the panels of two modalities.
PANELS = [
    "intra: between the modalities of a batch",
    "the lasting part of intra",
    "inter: visible, from batch to batch",
    "inter: infrared, from batch to batch",
]


def gaps(size, layers=LAYERS, modalities=("visible", "infrared")):
    pairs = {pair(*two): size for two in itertools.combinations(modalities, 2)}
    inter = dict.fromkeys(modalities, size)
    return [Gap(layer, side, pairs, pairs, inter) for layer in layers for side in SIDES]


@pytest.fixture
def measured():
    return [
        Measured(network, f"{network}-{seed}", way, gaps(size + seed))
        for network, size in (("bn", 3.0), ("mbn", 0.0))
        for seed in (0, 1)
        for way in ("training", "evaluation")
    ]


def test_the_csv_has_a_line_for_every_run_way_layer_and_side(measured):
    rows = list(csv.DictReader(io.StringIO(as_csv(measured))))
    assert len(rows) == 4 * 2 * len(LAYERS) * 2
    assert rows[0]["network"] == "bn"
    assert rows[0]["run"] == "bn-0"
    assert rows[1]["side"] == "after"
    assert list(rows[0])[5:] == [
        "intra_visible-infrared",
        "lasting_visible-infrared",
        "inter_visible",
        "inter_infrared",
    ]
    assert float(rows[1]["intra_visible-infrared"]) == 3


def test_the_table_has_means_over_layers_and_their_deviation_over_seeds(measured):
    lines = as_markdown(measured).splitlines()
    assert len(lines) == 2 + 2 * 2 * 2
    assert lines[2].startswith("| bn | training | before | 3.500 ± 0.707 |")
    one = as_markdown([measured[0]]).splitlines()
    assert one[2].startswith("| bn | training | before | 3.000 |")


def test_the_figure_has_a_row_for_each_way_and_a_panel_for_each_gap(measured):
    figure = draw_gaps(measured, "title")
    assert [axes.get_title("left") for axes in figure.axes] == 2 * PANELS
    for axes in figure.axes:
        assert len(axes.lines) == 2 * 2
        np.testing.assert_array_equal(axes.lines[1].get_ydata(), [3.5] * len(LAYERS))
        assert axes.get_ylim()[0] == 0


def test_the_legend_names_the_networks_of_all_rows_once_and_hides_no_curve(measured):
    late = Measured("_late", "", "evaluation", gaps(1.0))
    later = Measured("later", "", "evaluation", gaps(1.0))
    figure = draw_gaps([*measured[:4], late, *measured[4:], later], "title")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    names = [text.get_text().strip() for text in legend.get_texts()]
    networks = ("bn", "mbn", "_late", "later")
    assert names == [f"{network}, {side}" for network in networks for side in SIDES]
    colors = {
        n: h.get_color() for n, h in zip(names, legend.legend_handles, strict=True)
    }
    for axes in figure.axes:
        assert axes.get_legend() is None
        assert axes.get_tightbbox().y0 > legend.get_window_extent().y1
        for line in axes.lines:
            assert line.get_color() == colors[line.get_label().strip()]


def test_the_last_row_says_what_the_depth_is(measured):
    labels = [axes.get_xlabel() for axes in draw_gaps(measured, "title").axes]
    assert labels == [""] * 4 + ["normalization, from the image on"] * 4


def test_names_and_title_are_shown_as_they_are_and_none_is_left_out(tmp_path):
    networks = ("_u", "a $x_{$ b", "a name so long that no legend has a line for it")
    measured = [Measured(n, n, "training", gaps(1.0)) for n in networks]
    write_gaps(measured, tmp_path, "a $x_{$ b")
    (section,) = gap_sections(measured)
    assert all(network in (tmp_path / "gap.md").read_text() for network in networks)
    assert all(network in (tmp_path / "gap.csv").read_text() for network in networks)
    for shown in ("_u, after", "a $x_{$ b, after", "a name so long", "for it, after"):
        assert all(shown in chart for chart in section.charts)


def test_stages_are_named_where_a_network_has_them(measured):
    figure = draw_gaps(measured, "title")
    names = [label.get_text() for label in figure.axes[0].get_xticklabels(minor=True)]
    assert names == ["stem", "1", "2", "neck"]
    plain = [Measured("own", "own", "training", gaps(1.0, ["a", "b"]))]
    axes = draw_gaps(plain, "title").axes[0]
    assert not axes.get_xticklabels(minor=True)


def test_a_page_has_a_section_for_each_way_with_a_chart_for_each_gap(measured):
    sections = gap_sections(measured)
    assert ["training" in s.title for s in sections] == [True, False]
    for section in sections:
        assert len(section.charts) == len(PANELS)
        assert all("mbn, after" in chart for chart in section.charts)


def test_a_network_that_was_not_measured_keeps_its_color_for_itself(measured):
    unmeasured = Measured("new", "new", "training", ())
    (section,) = gap_sections([unmeasured, measured[0]])
    assert ORANGE in section.charts[0]
    assert BLUE not in section.charts[0]
    assert gap_sections([unmeasured]) == []


THREE = ("visible", "nir", "thermal")


def test_with_three_modalities_each_gap_has_a_row_of_three_panels():
    measured = [
        Measured("mbn", "mbn", way, gaps(size, modalities=THREE))
        for way, size in (("training", 1.0), ("evaluation", 2.0))
    ]
    figure = draw_gaps(measured, "title")
    titles = [axes.get_title("left") for axes in figure.axes]
    one_way = [
        "intra: visible-nir, in a batch",
        "intra: visible-thermal, in a batch",
        "intra: nir-thermal, in a batch",
        "the lasting part of intra: visible-nir",
        "the lasting part of intra: visible-thermal",
        "the lasting part of intra: nir-thermal",
        "inter: visible, from batch to batch",
        "inter: nir, from batch to batch",
        "inter: thermal, from batch to batch",
    ]
    assert titles == 2 * one_way
    tops = [axes.get_ylim()[1] for axes in figure.axes]
    assert len(set(tops[:9])) == len(set(tops[9:])) == 1
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == 15 * [False] + 3 * [1]
    for section in gap_sections(measured):
        shown = [" ".join(re.findall(">([^<]*)</text>", c)) for c in section.charts]
        capitalized = [title[0].upper() + title[1:] for title in one_way]
        assert len(shown) == len(capitalized)
        for chart, title in zip(shown, capitalized, strict=True):
            assert title in chart
    table = as_markdown(measured).splitlines()
    assert table[0].count("|") == 1 + 3 + 9


def test_four_modalities_leave_no_empty_panel():
    four = [Measured("", "", "training", gaps(1.0, modalities="abcd"))]
    figure = draw_gaps(four, "title")
    assert len(figure.axes) == 6 + 6 + 4
    assert all(axes.get_title("left") for axes in figure.axes)
    labeled = [axes.get_title("left") for axes in figure.axes if axes.get_xlabel()]
    assert labeled == [
        "the lasting part of intra: b-d",
        "the lasting part of intra: c-d",
        *(f"inter: {name}, from batch to batch" for name in "abcd"),
    ]


def test_what_a_network_does_not_have_is_left_empty():
    measured = [
        Measured("two", "", "training", gaps(1.0, ["a"])),
        Measured("three", "", "training", gaps(2.0, ["a"], THREE)),
    ]
    found = kinds(measured)
    assert Kind("intra", "visible-infrared") in found
    assert Kind("inter", "thermal") in found
    rows = list(csv.DictReader(io.StringIO(as_csv(measured))))
    assert rows[0]["inter_thermal"] == rows[-1]["inter_infrared"] == ""
    assert float(rows[0]["inter_infrared"]) == 1
    panels = {axes.get_title("left"): axes for axes in draw_gaps(measured, "").axes}
    assert len(panels[found[Kind("inter", "visible")]].lines) == 2 * 2
    (line, _) = panels[found[Kind("inter", "thermal")]].lines
    assert line.get_label() == "three, before"
    assert as_markdown(measured).splitlines()[2].split("|")[-2].strip() == "–"


@pytest.mark.parametrize("modalities", [("visible", "infrared"), THREE])
def test_json_is_read_as_it_was_written(tmp_path, modalities):
    by_way = {"training": gaps(0.25, modalities=modalities)}
    write_json(tmp_path / "gaps.json", as_json(by_way))
    assert read_gaps(tmp_path / "gaps.json") == by_way
    assert read_gaps(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    "content",
    [
        {"training": [{"gap": 1}]},
        {"training": 3},
        {
            "training": [
                gaps(1.0)[0]._replace(lasting={"visible-infrared": "0.3"})._asdict()
            ]
        },
        {"training": [gaps(1.0)[0]._replace(intra=0.3)._asdict()]},
        {"training": [gaps(1.0)[0]._replace(layer=1)._asdict()]},
        {"training": [gaps(1.0)[0]._replace(side="above")._asdict()]},
    ],
)
def test_json_of_something_else_is_refused(content, tmp_path):
    write_json(tmp_path / "gaps.json", content)
    with pytest.raises(InputError, match=r"gaps\.json does not hold the gaps"):
        read_gaps(tmp_path / "gaps.json")


def test_all_three_are_written_or_a_sentence_says_why_not(measured, tmp_path):
    write_gaps(measured, tmp_path / "new" / "folder", "title")
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["gap.csv", "gap.md", "gap.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        write_gaps(measured, tmp_path / "file", "title")
