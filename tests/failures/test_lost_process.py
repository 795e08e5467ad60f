"""Two processes, of which one is killed, hangs, or is asked to end."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from ..norm.test_processes import free_port
from ..training.conftest import small_config
from ..training.test_loop import TRAIN, logged, overrides
from .faults import has_logged, steps_of, wait_until

pytestmark = pytest.mark.slow

SETTINGS = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}


@contextlib.contextmanager
def both(config, workdir):
    """Starts two processes of one run, and leaves none behind."""
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    command = [sys.executable, TRAIN, f"--workdir={workdir}", *overrides(config)]
    started = []
    try:
        for i in (0, 1):
            with log(workdir, i).open("w") as file:
                process = subprocess.Popen(
                    [*command, address, "--num_processes=2", f"--process_id={i}"],
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                    cwd=workdir.parent,
                    env={**os.environ, **SETTINGS},
                )
            started.append(process)
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def log(workdir, i):
    return workdir.with_suffix(f".{i}.log")


def told(workdir, i):
    return log(workdir, i).read_text()


@pytest.fixture
def config(data_dir):
    config = small_config(data_dir)
    config.num_steps, config.eval_every, config.num_devices = 20, 2, 0
    return config


def test_of_two_processes_one_may_be_lost_or_asked_to_end_at_any_time(
    config, tmp_path, count
):
    """The other one ends within a minute and says why; the restart goes on.

    Seven starts of one run: each of them is half a minute of compiling.
    """
    workdir = tmp_path / "run"
    for what, hit, follows in (
        ("SIGKILL", 1, the_other_gives_up),
        ("SIGKILL", 0, the_other_gives_up),
        ("SIGSTOP", 1, the_other_says_why),
        ("SIGSTOP", 0, the_other_says_why),
        ("SIGTERM", 0, both_save_the_same_step),
        ("SIGTERM", 1, both_save_the_same_step),
    ):
        begun, newest = time.time(), max(steps_of(workdir), default=0)
        with both(config, workdir) as processes:
            wait_until(
                lambda begun=begun, step=newest + 3: (
                    has_begun(workdir, begun) and has_logged(workdir, step)
                ),
                processes[0],
            )
            processes[hit].send_signal(getattr(signal, what))
            count(f"process {hit} of two: {what}", follows(processes, hit, workdir))
        if newest:
            assert f"resumed after step {newest}" in told(workdir, 0)
    finish_both(config, workdir)


def has_begun(workdir, begun):
    """Whether this start has taken out what the one before logged and did not save."""
    path = workdir / "metrics.jsonl"
    return path.exists() and path.stat().st_mtime > begun


def the_other_gives_up(processes, hit, workdir):
    begun = time.monotonic()
    status = processes[1 - hit].wait(timeout=60)
    seconds = time.monotonic() - begun
    assert status != 0
    text = told(workdir, 1 - hit)
    ours = "another process of the run has ended or does not answer" in text
    assert ours or "indicates that another task died" in text, text
    by_whom = "our message" if ours else "JAX's message"
    return f"the other ends after {seconds:.0f} s, status {status}, with {by_whom}"


def the_other_says_why(processes, hit, workdir):
    """JAX would abort it after a longer silence, without a sentence of ours."""
    found = the_other_gives_up(processes, hit, workdir)
    assert found.endswith("status 1, with our message"), found
    return found


def both_save_the_same_step(processes, hit, workdir):
    statuses = [process.wait(timeout=120) for process in processes]
    assert statuses == [143, 143], told(workdir, 0) + told(workdir, 1)
    step = max(steps_of(workdir))
    for i in (0, 1):
        assert f"terminated after step {step}, which is saved" in told(workdir, i)
    return "both saved the same step"


def finish_both(config, workdir):
    newest = max(steps_of(workdir))
    with both(config, workdir) as processes:
        statuses = [process.wait(timeout=400) for process in processes]
    assert statuses == [0, 0], told(workdir, 0) + told(workdir, 1)
    assert f"resumed after step {newest}" in told(workdir, 0)
    assert (workdir / "results.json").exists()
    assert [e["step"] for e in logged(workdir) if "loss" in e] == list(range(1, 21))
