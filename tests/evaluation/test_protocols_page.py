"""What docs/protocols.md tells a reader to type exists and runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/protocols.md").read_text()


def test_the_example_finds_anna_behind_ben():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    namespace = {}
    exec(code, namespace)
    figures = namespace["figures"]
    assert (figures["rank1"], figures["num_valid_queries"]) == (0, 2)
    assert figures["mAP"] == pytest.approx((1 / 2 + (1 / 2 + 2 / 3) / 2) / 2)


def test_the_flags_that_the_page_names_exist():
    places = ("experiments/evaluate.py", "mbn_jax/evaluation/flags.py")
    script = "".join((ROOT / place).read_text() for place in places)
    flags = set(re.findall(r"--([a-z_]+)", PAGE)) - {"exp"}  # of a benchmark
    assert flags > {"protocol", "search", "shots", "gallery", "direction", "variant"}
    for flag in flags:
        assert f'"{flag}"' in script, flag
