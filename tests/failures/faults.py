"""What the failure tests share: runs that are started, watched, and ended."""

import shutil
import time

import jax
import numpy as np

from mbn_jax.mesh import make_mesh
from mbn_jax.training import loop
from mbn_jax.training.loop import train
from mbn_jax.training.state import init_state, make_model, make_optimizer

from ..training.test_loop import overrides, start


def steps_of(workdir):
    """The steps of all complete checkpoints, in order."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return sorted(int(name) for name in names if name.isdecimal())


def saves_in_progress(workdir):
    """Their directories, but for the debris that a test has put aside as seen."""
    found = (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    return [path for path in found if not path.name.startswith("seen-")]


def has_logged(workdir, step):
    metrics = workdir / "metrics.jsonl"
    return metrics.exists() and f'{{"step": {step},' in metrics.read_text()


def wait_until(happened, process):
    """Looks a thousand times a second; a run that has ended does not come so far."""
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)


def finish(config, workdir):
    """Starts the run again, in a process, and expects it to end well."""
    process = start(workdir, *overrides(config))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return errors


def stop_after(monkeypatch, config, workdir, last):
    """Trains until the checkpoint of a step is on disk, and no further."""
    save = loop.Checkpoints.save

    def stopping(self, step, *arguments):
        save(self, step, *arguments)
        if step == last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Checkpoints, "save", stopping)
        try:
            train(config, workdir)
        except KeyboardInterrupt:
            return
    raise AssertionError(f"there was no step {last}")


def copy(workdir, other):
    shutil.copytree(workdir, other, ignore=shutil.ignore_patterns("lock"))
    return other


def assert_equal_states(state, stored):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    for ours, theirs in zip(leaves, jax.tree.leaves(stored), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def files_of(workdir, step):
    directory = workdir / "checkpoints" / str(step)
    return sorted(path for path in directory.rglob("*") if path.is_file())


def empty_state(config):
    mesh = make_mesh(config.num_devices)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    return init_state(make_model(config, 6), optimizer, config.seed, mesh)
