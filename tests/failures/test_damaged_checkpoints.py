"""A checkpoint of which a file is lost or cut off: set aside, and the end is the same.

`damages` is every file deleted, cut to half, and emptied. What is then read is compared
bit for bit; that the same state leads to the same end is trained for some of them.
"""

import functools
import itertools
import random
import shutil

import jax
import jax.numpy as jnp
import pytest

import mbn_jax
from mbn_jax.errors import InputError
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.loop import train
from mbn_jax.training.state import ModelState

from ..training.test_loop import assert_same_outcome, final_state
from .faults import assert_equal_states, copy, empty_state, files_of, steps_of

# Orbax, after the first error, no longer awaits what TensorStore says of the others.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "cut to half": lambda path: path.write_bytes(
        path.read_bytes()[: path.stat().st_size // 2]
    ),
    "emptied": lambda path: path.write_bytes(b""),
}


stored_state = functools.cache(final_state)


def damaged_copy(workdir, other, file, damage):
    shutil.rmtree(other, ignore_errors=True)
    copy(workdir, other)
    DAMAGES[damage](other / file.relative_to(workdir))
    return other


def assert_named_or_loaded(workdir, step, stored):
    """`mbn_jax.load` gives the network that was saved, or an error that names it."""
    message = None
    try:
        _, variables = mbn_jax.load(workdir)
    except InputError as error:
        message = str(error)
    if message:
        assert f"checkpoint of step {step} in {workdir}" in message
        assert "\n" not in message
    else:
        for part in ("params", "batch_stats"):
            assert_equal_states(variables[part], stored[part])


def check_what_is_read(config, whole, workdir, like, capfd):
    """What a restart and `load` make of a work directory whose newest is damaged."""
    before, newest = steps_of(whole)[-2:]
    assert_named_or_loaded(workdir, newest, stored_state(whole, newest))
    capfd.readouterr()
    with Checkpoints(workdir) as checkpoints:
        step, state = checkpoints.restore_newest(like)
        best = checkpoints.best_step()
    aside = workdir / "damaged_checkpoints" / f"{newest}-1"
    assert_equal_states(state, as_state(like, stored_state(whole, step)))
    if not aside.exists():
        assert step == newest
        with Checkpoints(whole, to_write=False) as checkpoints:
            assert best == checkpoints.best_step()
        return "not needed"
    assert step == before
    message = capfd.readouterr().err
    assert f"checkpoint of step {newest} cannot be read" in message
    assert str(aside) in message
    return "set aside"


def as_state(like, stored):
    """What was stored, in the order of the leaves of a state."""
    leaves = jax.tree_util.tree_leaves_with_path(like)

    def find(path):
        found = stored
        for key in path:
            name = getattr(key, "name", getattr(key, "key", getattr(key, "idx", None)))
            found = found[name] if isinstance(found, dict) else found[int(name)]
        return found

    return [find(path) for path, _ in leaves]


@pytest.fixture(scope="module")
def damages(half_done):
    files = files_of(half_done, max(steps_of(half_done)))
    return list(itertools.product(files, DAMAGES))


@pytest.mark.slow
def test_every_file_lost_or_cut_off_is_noticed_or_not_needed(
    config, half_done, damages, tmp_path, capfd, count
):
    like = empty_state(config)
    for file, damage in damages:
        workdir = damaged_copy(half_done, tmp_path / "run", file, damage)
        outcome = check_what_is_read(config, half_done, workdir, like, capfd)
        count(f"file of a checkpoint {damage}", outcome)


def restore_variables(workdir, step):
    with Checkpoints(workdir, to_write=False) as checkpoints:
        return checkpoints.restore_variables(step)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["default/manifest.ocdbt", "metrics/metrics"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(
    file, damage, tmp_path, capfd
):
    state = ModelState(*(jnp.full(3, float(part)) for part in range(6)))
    workdir = tmp_path / "run"
    with Checkpoints(workdir) as checkpoints:
        for step in (2, 4, 6):
            saved = jax.tree.map(lambda x, n=step: x + n, state)
            checkpoints.save(step, saved, step / 10)
    DAMAGES[damage](workdir / "checkpoints" / "6" / file)
    with pytest.raises(InputError, match="checkpoint of step 6 in"):
        restore_variables(workdir, 6)
    with Checkpoints(workdir) as checkpoints:
        step, restored = checkpoints.restore_newest(state)
        assert checkpoints.steps() == [4]
    assert step == 4
    assert_equal_states(restored, [leaf + 4 for leaf in jax.tree.leaves(state)])
    assert steps_of(workdir) == [4]
    assert (workdir / "damaged_checkpoints" / "6-1").is_dir()
    assert "The checkpoint of step 6 cannot be read" in capfd.readouterr().err


@pytest.mark.slow
def test_with_the_newest_checkpoint_damaged_a_run_ends_the_same(
    config, half_done, undisturbed, damages, tmp_path, count
):
    for file, damage in random.Random(0).sample(damages, 3):
        workdir = damaged_copy(half_done, tmp_path / "run", file, damage)
        train(config, workdir)
        assert_same_outcome(workdir, undisturbed)
        count("run with a damaged newest checkpoint", "the same end")
