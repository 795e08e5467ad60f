"""The numbers of the study's page follow from its CSV files."""

import csv
import re
from pathlib import Path

import pytest

from mbn_jax.analysis.ablation import METRICS, by_setting, difference, read_csv
from mbn_jax.analysis.ablation_tables import (
    as_markdown,
    controls_as_markdown,
    directions_as_markdown,
)

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "results.md").read_text()
PARTS = ("patches", "random", "synthetic")


@pytest.fixture(scope="module")
def results():
    files = [DOCS / "study" / f"{part}.csv" for part in PARTS]
    return [
        result
        for file in files
        if file.exists()
        for result in read_csv(file.read_text(), file.name)
    ]


@pytest.mark.parametrize(
    "table", [as_markdown, directions_as_markdown, controls_as_markdown]
)
def test_every_table_follows_from_the_csv(results, table):
    assert table(results) in PAGE


def test_every_run_is_there_with_all_its_directions(results):
    """A run that was left out, or counted twice, would change a mean."""
    rows = [(r.setting, r.norm, r.seed, r.protocol, r.statistics) for r in results]
    assert len(set(rows)) == len(rows)
    for group in by_setting(results).values():
        seeds = {
            norm: {r.seed for r in group if r.norm == norm} for norm in ("bn", "mbn")
        }
        assert seeds["bn"] == seeds["mbn"]
        assert len(group) == 2 * len(seeds["bn"]) * 7


def test_the_baselines_are_those_of_their_csv():
    with open(DOCS / "study" / "baselines.csv", newline="") as file:
        for row in csv.DictReader(file):
            values = [f"{100 * float(row[name]):.1f}" for name in METRICS]
            protocol = row["protocol"].replace("_to_", " → ")
            line = " | ".join([row["data"], protocol, row["method"], *values])
            assert f"| {line} |" in PAGE


def test_the_readme_gives_the_differences_of_the_page(results):
    text = (DOCS.parent / "README.md").read_text()
    start = text.index("## Does it help?")
    answer = text[start : text.index("\n## ", start + 1)]
    known = {
        f"{100 * value:+.1f}"
        for group in by_setting(results).values()
        if (found := difference(group))
        for value in (found.mean, found.low, found.high)
    }
    quoted = re.findall(r"[+-]\d+\.\d", answer.replace("−", "-"))
    assert quoted
    assert set(quoted) <= known
