"""Two runs in one work directory: the second is refused, until the first has ended."""

import signal
import subprocess
import sys

import pytest

from mbn_jax.errors import InputError
from mbn_jax.training.workdir import locked

from ..training.test_loop import assert_same_outcome, overrides, start
from .faults import finish, has_logged, wait_until

HOLDER = """
import sys, time
from pathlib import Path
from mbn_jax.training.config import default_config
from mbn_jax.training.workdir import locked
with locked(Path(sys.argv[1]), default_config()):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_names_its_holder_and_ends_with_it(config, tmp_path):
    workdir = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, workdir], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        in_use = f"is in use by process {holder.pid} on "
        with pytest.raises(InputError, match=in_use), locked(workdir, config):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert (workdir / "lock").exists()  # of a process that is gone
    with locked(workdir, config):
        pass
    assert not (workdir / "lock").exists()


@pytest.mark.slow
def test_a_second_run_is_refused_and_the_first_is_undisturbed(
    config, undisturbed, tmp_path, count
):
    workdir = tmp_path / "run"
    first = start(workdir, *overrides(config))
    wait_until(lambda: has_logged(workdir, 1), first)
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second asks
    second = start(workdir, *overrides(config))
    _, errors = second.communicate()
    assert second.returncode == 1
    assert errors.startswith(f"error: {workdir} is in use by process {first.pid} on ")
    assert errors.count("\n") == 1
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate()
    assert first.returncode == 0, errors
    assert_same_outcome(workdir, undisturbed)
    count("second run in a work directory", "refused; the first ended the same")


@pytest.mark.slow
def test_after_a_killed_run_a_new_one_can_start(config, undisturbed, tmp_path, count):
    workdir = tmp_path / "run"
    first = start(workdir, *overrides(config))
    wait_until(lambda: has_logged(workdir, 1), first)
    first.kill()
    first.communicate()
    assert (workdir / "lock").exists()
    finish(config, workdir)
    assert_same_outcome(workdir, undisturbed)
    count("lock of a killed run", "taken over")
