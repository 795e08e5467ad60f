"""Looking inside a run: traces, memory, compile time, transfers."""

import gzip
import json

import jax
import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.training import loop
from mbn_jax.training.config import check
from mbn_jax.training.loop import train

from .test_loop import assert_same_outcome, logged


def test_a_trace_has_the_steps_that_were_asked_for(config, finished, tmp_path):
    config.profile_steps = "3:4"
    train(config, tmp_path)
    (trace,) = tmp_path.glob("profile/plugins/profile/*/*.trace.json.gz")
    assert list(trace.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {e["args"]["step_num"] for e in events if e.get("name") == "train"}
    assert steps == {"3", "4"}
    assert_same_outcome(tmp_path, finished[0])


def test_a_run_that_ends_within_the_steps_writes_what_there_is(config, tmp_path):
    config.num_steps, config.profile_steps = 2, "2:9"
    train(config, tmp_path)
    assert len(list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))) == 1


@pytest.mark.parametrize("steps", ["3", "4:3", "0:2", "a:b", "1:2:3"])
def test_steps_that_are_none_are_refused(config, steps):
    config.profile_steps = steps
    with pytest.raises(InputError, match="like '10:15'"):
        check(config)


def test_memory_and_compile_time_are_logged(finished):
    lines = [line for line in logged(finished[0]) if "loss" in line]
    assert lines[0]["compile_seconds"] > 0.01
    # Steps 3 and 5 follow a validation; nothing is compiled between 5 and 6.
    assert lines[5]["compile_seconds"] == 0
    assert 0.1 < lines[0]["host_memory_peak"] <= lines[-1]["host_memory_peak"] < 100


def test_nothing_moves_to_the_device_unasked(config, tmp_path, monkeypatch):
    """The guard is on: a NumPy array given to a jitted function is an error."""
    make_train_step = loop.make_train_step

    def careless(*arguments):
        step = make_train_step(*arguments)

        def run(state, batch):
            jax.jit(lambda x: x + 1)(np.ones(3))
            return step(state, batch)

        return run

    monkeypatch.setattr(loop, "make_train_step", careless)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
        train(config, tmp_path)
