"""Forty steps with ten checkpoints, undisturbed and half done; a count of faults."""

import collections
import gc

import jax
import pytest

from mbn_jax.training.loop import train

from ..training.conftest import small_config
from .faults import stop_after


@pytest.fixture(autouse=True)
def errors_of_abandoned_reads_belong_to_their_test():
    """After an error Orbax no longer awaits its other reads.

    Their errors are reported when they are collected as garbage. Where a test expects
    them and ignores the report, they must not wait for a later test, which does not.
    """
    yield
    gc.collect()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def longer_config(data_dir):
    config = small_config(data_dir)
    config.num_steps, config.eval_every = 40, 4
    return config


@pytest.fixture
def config(data_dir):
    return longer_config(data_dir)


@pytest.fixture(scope="session")
def undisturbed(data_dir, tmp_path_factory):
    """The work directory of a run that nothing happened to; tests only read it."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    train(longer_config(data_dir), workdir)
    return workdir


@pytest.fixture(scope="session")
def half_done(data_dir, tmp_path_factory):
    """The work directory of a run stopped after step 20; tests only read it."""
    workdir = tmp_path_factory.mktemp("half_done") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, longer_config(data_dir), workdir, 20)
    return workdir


@pytest.fixture
def count(record_property):
    """Counts a fault that was caused, and whether it was survived, for the summary."""

    def one(fault, outcome):
        record_property("fault", (fault, outcome))

    return one


def pytest_terminal_summary(terminalreporter):
    counts = {}
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            if report.when == "call" and name == "fault":
                fault, outcome = value
                counts.setdefault(fault, collections.Counter())[outcome] += 1
    if not counts:
        return
    terminalreporter.section(f"faults caused (JAX {jax.__version__})")
    for fault, outcomes in counts.items():
        listed = ", ".join(f"{outcome} {n}" for outcome, n in outcomes.items())
        terminalreporter.write_line(f"{fault}: {outcomes.total()} ({listed})")
