"""The compilation cache, whose entries JAX writes in place: a kill may cut one off."""

import pytest

from ..training.test_loop import assert_same_outcome
from .faults import finish


@pytest.mark.slow
def test_programs_that_are_cut_off_in_the_cache_are_compiled_anew(
    config, undisturbed, tmp_path, count
):
    cache = tmp_path / "compiled"  # in place: JAX does not know a copy of it
    config.compilation_cache = str(cache)
    finish(config, tmp_path / "first")
    entries = list(cache.glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    told = finish(config, tmp_path / "run")
    assert "Error reading persistent compilation cache entry" in told
    assert_same_outcome(tmp_path / "run", undisturbed)
    count("compilation cache with every entry cut off", "the same end")
