"""The code that readers will copy runs, and what the pages point to exists."""

import itertools
import re
import runpy
import sys
from pathlib import Path

import cv2
import pytest
from flax.traverse_util import flatten_dict
from markdown_it import MarkdownIt

from mbn_jax.data.sources import sysu_mm01
from mbn_jax.evaluation import evaluate_file
from mbn_jax.training.config import default_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]


def code_blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_layer_in_the_readme_runs():
    namespace = {}
    exec(code_blocks("README.md")[0], namespace)
    assert namespace["features"].shape == (8, 16, 16, 8)
    (stats,) = namespace["updates"]["batch_stats"].values()
    assert stats["mean"].shape == (2, 8)


def test_the_feature_file_of_its_page_can_be_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(code_blocks("docs/feature-files.md")[0], {})
    result = evaluate_file("F.npz", sysu_mm01.protocol())
    # Two people in two infrared cameras, twice; in four visible ones, one drawn.
    assert (result["num_queries"], result["gallery_size"]) == (8, 8)


def test_the_chart_of_the_two_gaps_is_drawn_by_its_script(tmp_path, monkeypatch):
    script = ROOT / "docs" / "pictures" / "two_gaps.py"
    drawn = tmp_path / "gaps.png"
    monkeypatch.setattr(sys, "argv", [str(script), f"--output={drawn}"])
    runpy.run_path(str(script), run_name="__main__")
    assert cv2.imread(drawn).shape == cv2.imread(script.with_suffix(".png")).shape


@pytest.mark.parametrize("page", ["own-pictures.md", "exporting.md"])
def test_what_the_pages_import_exists(page):
    for block in code_blocks(f"docs/{page}"):
        for line in re.findall(r"^(?:import|from) .*", block, re.MULTILINE):
            # Of an environment of its own.
            if "onnx" not in line:
                exec(line, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped_at_100_columns(page):
    """Lists as well, but no tables, code, formulas and images."""
    lines = page.read_text().splitlines()
    for token in MarkdownIt("commonmark").enable("table").parse("\n".join(lines)):
        paragraph = lines[slice(*token.map)] if token.type == "paragraph_open" else []
        if paragraph and not paragraph[0].lstrip().startswith(("$$", "![")):
            assert [line for line in paragraph if len(line) > 100] == []
            for line, following in itertools.pairwise(paragraph):
                assert len(line) + len(following.strip()) >= 100, "these fit one line"


def test_the_keys_that_the_training_page_names_exist():
    known = flatten_dict(default_config().to_dict(), sep=".")
    text = (ROOT / "docs" / "training.md").read_text()
    table = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    keys = re.findall(r"`([a-z]+\.[a-z_]+)`", " ".join(table))
    for key in set(keys):
        assert key in known or key.endswith((".json", ".jsonl")), key
