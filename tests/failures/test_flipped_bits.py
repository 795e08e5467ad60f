"""Bits of a checkpoint that flip on the disk: noticed, or they change nothing."""

import random
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from mbn_jax.errors import InputError
from mbn_jax.mesh import replicated
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.checkpoint_damage import check_arrays, checksums
from mbn_jax.training.state import ModelState

from .faults import assert_equal_states, copy, empty_state, files_of, steps_of

# Orbax, after the first error, no longer awaits what TensorStore says of the others.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def drawn_by_byte(files, rng):
    """A file and a bit of it; every byte of all files is as likely as every other."""
    byte = rng.randrange(sum(path.stat().st_size for path in files))
    for path in files:
        if byte < path.stat().st_size:
            return path, 8 * byte + rng.randrange(8)
        byte -= path.stat().st_size
    raise AssertionError("there is no such byte")


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def outcome(workdir, step, like, whole, best):
    """What is made of a checkpoint by a run that goes on, and by all that load it."""
    with Checkpoints(workdir, to_write=False) as checkpoints:
        state = unless_noticed(lambda: checkpoints.restore(step, like), step)
        variables = unless_noticed(lambda: checkpoints.restore_variables(step), step)
        found = unless_noticed(checkpoints.best_step, step)
    if state is not None:
        assert_equal_states(state, jax.tree.leaves(whole))
    if variables is not None:
        for name, part in variables.items():
            assert_equal_states(part, jax.tree.leaves(getattr(whole, name)))
    if found is not None:
        assert found == best
    noticed = None in (state, variables, found)
    return "noticed" if noticed else "changed nothing"


def unless_noticed(read, step):
    """What is read, or None where an error names the checkpoint."""
    try:
        return read()
    except InputError as error:
        message = str(error)
    assert f"checkpoint of step {step} in" in message
    assert "\n" not in message
    return None


def outcomes(workdir, like, num_flips):
    step = max(steps_of(workdir))
    with Checkpoints(workdir, to_write=False) as checkpoints:
        whole, best = checkpoints.restore(step, like), checkpoints.best_step()
    rng, files = random.Random(0), files_of(workdir, step)
    for _ in range(num_flips):
        path, bit = drawn_by_byte(files, rng)
        flip(path, bit)
        yield outcome(workdir, step, like, whole, best)
        flip(path, bit)


def state_of(step, devices=1):
    draw = np.random.default_rng(step).normal
    arrays = (draw(size=(20, 10)).astype(np.float32) for _ in range(5))
    sharding = replicated(Mesh(jax.devices()[:devices], "data"))
    return jax.device_put(ModelState(np.int32(step), *arrays), sharding)


@pytest.fixture
def workdir(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        for step in (4, 6):
            checkpoints.save(step, state_of(step), step / 10)
    return tmp_path / "run"


def test_no_flipped_bit_gives_other_weights(workdir):
    found = list(outcomes(workdir, state_of(0), 30))
    # A third of the bytes is array data that is read, here without a pattern.
    assert found.count("noticed") > 3


@pytest.mark.slow
def test_no_flipped_bit_of_a_trained_state_gives_other_weights(
    config, half_done, tmp_path, count
):
    workdir = copy(half_done, tmp_path / "run")
    for found in outcomes(workdir, empty_state(config), 250):
        count("bit of a checkpoint flipped, drawn by byte", found)


def test_arrays_that_are_others_than_those_saved_are_named_and_set_aside(
    workdir, capfd
):
    """As a flipped bit in array data: Orbax and TensorStore read both alike."""
    checkpoints = workdir / "checkpoints"
    shutil.rmtree(checkpoints / "6" / "default")
    shutil.copytree(checkpoints / "4" / "default", checkpoints / "6" / "default")
    with Checkpoints(workdir, to_write=False) as opened:
        with pytest.raises(InputError, match=r"6 of 6 arrays differ .* step, params, "):
            opened.restore(6, state_of(0))
        with pytest.raises(InputError, match=r"2 of 2 .* batch_stats, params"):
            opened.restore_variables(6)
    with Checkpoints(workdir) as opened:
        step, state = opened.restore_newest(state_of(0))
    assert step == 4
    assert_equal_states(state, jax.tree.leaves(state_of(4)))
    assert (workdir / "damaged_checkpoints" / "6-1").is_dir()
    assert "6 of 6 arrays differ from what was saved" in capfd.readouterr().err


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_checksums_hold_on_another_number_of_devices(devices, tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(4, state_of(4, devices=2), None)
        checkpoints.wait()
        _, state = checkpoints.restore_newest(state_of(0, devices=devices))
    assert len(state.params.sharding.device_set) == devices
    assert_equal_states(state, jax.tree.leaves(state_of(4)))


def test_a_checksum_is_of_values_shape_and_type():
    array = np.arange(12, dtype=np.float32)
    others = [array + 1, array.reshape(3, 4), array.view(np.int32), array[:-1]]
    others.append(np.where(array == 0, -0.0, array).astype(np.float32))
    kept = checksums({"a": {"b": array}})
    assert list(kept) == ["a/b"]
    check_arrays({"a": {"b": array.copy()}}, kept)
    for other in others:
        with pytest.raises(ValueError, match=r"1 of 1 arrays differ .* a/b"):
            check_arrays({"a": {"b": other}}, kept)
    with pytest.raises(ValueError, match=r"1 of 2 arrays differ .* c"):
        check_arrays({"a": {"b": array}, "c": array}, kept)
