"""What docs/protocols.md tells a reader to type exists and runs."""

import re
from pathlib import Path

import pytest

from mbn_jax.data.sources import all_sources

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/protocols.md").read_text()


def test_the_example_finds_anna_behind_ben():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    namespace = {}
    exec(code, namespace)
    figures = namespace["metrics"]
    assert (figures["rank1"], figures["num_valid_queries"]) == (0, 2)
    assert figures["mAP"] == pytest.approx((1 / 2 + (1 / 2 + 2 / 3) / 2) / 2)


def test_the_flags_that_the_page_names_exist():
    script = (ROOT / "mbn_jax/commands/evaluate.py").read_text()
    options = {option.name for source in all_sources() for option in source.options}
    flags = set(re.findall(r"--([a-z_]+)", PAGE)) - {"exp"}  # of a benchmark
    assert flags > {"protocol", "search", "shots", "gallery", "direction", "variant"}
    for flag in flags:
        assert flag in options or f'"{flag}"' in script, flag
