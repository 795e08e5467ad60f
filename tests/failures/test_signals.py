"""Killed at any moment, or asked to end: started again, a run ends the same."""

import random
import signal
import time

import pytest

from mbn_jax.files import UNFINISHED

from ..training.test_loop import assert_same_outcome, logged, overrides, start
from .faults import finish, has_logged, saves_in_progress, steps_of, wait_until

# When the signal falls, and up to how many seconds after that.
MOMENTS = [
    ("start-up", 4.0),
    ("preparation", 2.0),
    ("save", 0.0),
    ("step", 0.1),
    ("evaluation", 0.05),
    ("save", 0.02),
    ("start-up", 8.0),
    ("save", 0.1),
    ("preparation", 0.5),
    ("step", 0.3),
]


def comes(moment, workdir):
    """A function that says whether a run, started just now, has come so far."""
    newest = max(steps_of(workdir), default=0)
    begun = time.time()
    if moment == "start-up":
        return lambda: True
    if moment == "preparation":  # compiling, features of the test split, reading
        path = workdir / "config.json"
        return lambda: path.exists() and path.stat().st_mtime > begun
    if moment == "step":
        return lambda: has_logged(workdir, newest + 2)
    if moment == "evaluation":  # its step is logged, its figures are not
        return lambda: has_logged(workdir, newest + 4)
    return lambda: bool(saves_in_progress(workdir))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_ten_random_moments_a_run_ends_the_same(
    seed, config, undisturbed, tmp_path, count
):
    workdir, rng = tmp_path / "run", random.Random(seed)
    in_a_save = 0
    for moment, within in MOMENTS:
        # What an earlier kill has left is not the save that is waited for.
        for debris in saves_in_progress(workdir):
            debris.rename(debris.with_name(f"seen-{debris.name}"))
        process = start(workdir, *overrides(config))
        wait_until(comes(moment, workdir), process)
        time.sleep(rng.uniform(0, within))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        unfinished = bool(saves_in_progress(workdir))
        in_a_save += unfinished
        count("SIGKILL", f"at {moment}{', which left it unfinished' * unfinished}")
    assert in_a_save >= 1
    finish(config, workdir)
    assert saves_in_progress(workdir) == []
    assert list(workdir.rglob(f"*{UNFINISHED}")) == []
    assert_same_outcome(workdir, undisturbed)
    steps = [line["step"] for line in logged(workdir) if "loss" in line]
    assert steps == list(range(1, 41))


@pytest.mark.slow
def test_sigterm_saves_the_running_step_and_the_restart_goes_on(
    config, undisturbed, tmp_path, count
):
    workdir, newest = tmp_path / "run", 0
    for times in (1, 2):
        process = start(workdir, *overrides(config))
        wait_until(lambda step=newest + 5: has_logged(workdir, step), process)
        for _ in range(times):
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
        assert process.returncode == 143, errors
        newest = max(steps_of(workdir))
        assert newest < 40
        assert f"terminated after step {newest}, which is saved" in errors
        assert max(line["step"] for line in logged(workdir)) == newest
        count(f"SIGTERM × {times}", "saved, exit status 143")
    assert f"resumed after step {newest}" in finish(config, workdir)
    assert_same_outcome(workdir, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "file"),
    [("before the first step", "config.json"), ("of the report", "results.json")],
)
def test_sigterm_outside_of_the_steps_ends_the_run_at_once_in_one_line(
    moment, file, config, undisturbed, tmp_path, count
):
    workdir = tmp_path / "run"
    process = start(workdir, *overrides(config))
    wait_until((workdir / file).exists, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    assert errors.splitlines()[-1].startswith("terminated; the same command goes on")
    assert "Traceback" not in errors
    count(f"SIGTERM {moment}", "exit status 143")
    finish(config, workdir)
    assert_same_outcome(workdir, undisturbed)
