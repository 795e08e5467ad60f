"""Checkpoints that cannot be read, and need not be damaged: nothing is moved."""

import errno
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import pytest

from mbn_jax.errors import InputError
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.checkpoint_damage import is_of_content, reason
from mbn_jax.training.state import ModelState

from ..training.test_loop import snapshot
from .faults import assert_equal_states, steps_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def state_of(step, size=3):
    return ModelState(jnp.int32(step), *(jnp.full(size, step + i) for i in range(5)))


@pytest.fixture
def workdir(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        for step in (4, 6):
            checkpoints.save(step, state_of(step), step / 10)
    return tmp_path / "run"


def restored(workdir, like=None):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore_newest(like or state_of(0))


def refused_with_all_left_in_place(workdir, like=None):
    """Returns the sentence."""
    before = snapshot(workdir)
    with pytest.raises(InputError) as error:
        restored(workdir, like)
    assert snapshot(workdir) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_error_of_the_disk_while_reading_discards_nothing(workdir, monkeypatch):
    read = type(workdir).read_bytes

    def fail(path):
        if "/checkpoints/4/" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(type(workdir), "read_bytes", fail)
        with pytest.raises(InputError) as error:
            restored(workdir)
    assert "step 4" in str(error.value)
    assert "cannot be read now (Input/output error); nothing was" in str(error.value)
    assert steps_of(workdir) == [4, 6]
    assert not (workdir / "damaged_checkpoints").exists()
    assert restored(workdir)[0] == 6


def test_too_many_open_files_discard_nothing(workdir):
    """Really caused: Orbax and TensorStore say it in their own words."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Checkpoints(workdir) as checkpoints:
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))
        try:
            with pytest.raises(InputError, match=r"now \(Too many open files\)"):
                checkpoints.restore_newest(state_of(0))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert steps_of(workdir) == [4, 6]
    assert restored(workdir)[0] == 6


def test_checkpoints_of_another_network_stay(workdir):
    message = refused_with_all_left_in_place(workdir, state_of(0, size=5))
    assert message.startswith(f"No checkpoint in {workdir / 'checkpoints'} can be read")
    assert "nothing was moved" in message
    assert restored(workdir)[0] == 6


def test_where_all_are_damaged_all_stay(workdir):
    for step in (4, 6):
        for file in (workdir / "checkpoints" / str(step)).rglob("manifest.ocdbt"):
            file.write_bytes(b"")
    message = refused_with_all_left_in_place(workdir)
    assert "(4: " in message
    assert "; 6: " in message


def test_a_checkpoint_under_a_wrong_step_is_noticed(workdir, capfd):
    checkpoints = workdir / "checkpoints"
    shutil.copytree(checkpoints / "4", checkpoints / "8")
    with (
        Checkpoints(workdir, to_write=False) as opened,
        pytest.raises(InputError, match=r"step 8 .* its step is 8 and was 4"),
    ):
        opened.restore_variables(8)
    step, state = restored(workdir)
    assert step == 6
    assert_equal_states(state, jax.tree.leaves(state_of(6)))
    assert steps_of(workdir) == [4, 6]
    assert "its step is 8 and was 4" in capfd.readouterr().err


def test_another_score_than_the_one_saved_is_noticed(workdir):
    """Otherwise another checkpoint would be the best."""
    (workdir / "checkpoints/6/metrics/metrics").write_text('{"mean_mAP": 0.1}')
    with (
        Checkpoints(workdir, to_write=False) as opened,
        pytest.raises(InputError, match=r"step 6 .* its mean_mAP is 0\.1 and was 0\.6"),
    ):
        opened.best_step()
    assert restored(workdir)[0] == 4


def test_a_checkpoint_without_checksums_is_read_with_a_warning(workdir, capfd):
    for step in (4, 6):
        shutil.rmtree(workdir / "checkpoints" / str(step) / "record")
    step, state = restored(workdir)
    assert step == 6
    assert_equal_states(state, jax.tree.leaves(state_of(6)))
    errors = capfd.readouterr().err
    assert errors.count("has no checksums") == 2
    assert errors.count("warning: The checkpoint of step 6 has no checksums") == 1


TENSORSTORE = (
    "UNKNOWN: Error reading local file: Failed to read 113 bytes from file at offset "
    "0: Input/output error [os_error_code='5'] [tensorstore_spec='…']"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "x"), "Input/output error"),
        (PermissionError(errno.EACCES, "x"), "Permission denied"),
        (ValueError(TENSORSTORE), "Input/output error"),
        (ExceptionGroup("two", [ValueError("a"), OSError(errno.ESTALE, "x")]), "Stale"),
        (MemoryError("x"), "MemoryError"),
    ],
)
def test_errors_of_the_system_are_told_from_damage(error, expected):
    assert not is_of_content(error)
    assert reason(error).startswith(expected)
    later = KeyError("a later one")
    later.__cause__ = error
    assert not is_of_content(later)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "x"),
        ValueError("DATA_LOSS: [tensorstore_spec='…']"),
        ValueError("NOT_FOUND [os_error_code='2']"),
        KeyError("params"),
    ],
)
def test_errors_of_the_content_are_damage(error):
    assert is_of_content(error)
