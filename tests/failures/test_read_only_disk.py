"""A disk that turns read-only: one sentence, and the run goes on once it is mounted."""

import errno
import os

import pytest

from mbn_jax.errors import InputError
from mbn_jax.training.workdir import claimed, locked

from ..training.test_loop import assert_same_outcome, overrides, start
from .disks import CannotMount, after_power_loss, image_disk, turn_read_only
from .faults import copy, finish, has_logged, saves_in_progress, steps_of, wait_until

MOMENTS = {
    "before the first step": lambda workdir: (workdir / "environment.json").exists(),
    "before the first checkpoint": lambda workdir: has_logged(workdir, 1),
    "while saving": lambda workdir: bool(saves_in_progress(workdir)),
    "after a checkpoint": lambda workdir: has_logged(workdir, 10),
    "near the end": lambda workdir: has_logged(workdir, 38),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_on_a_disk_that_turns_read_only_a_run_says_so_and_goes_on_afterwards(
    moment, config, undisturbed, tmp_path, count
):
    image = tmp_path / "image"
    try:
        with image_disk(image, tmp_path / "disk") as disk:
            process = start(disk / "run", *overrides(config))
            wait_until(lambda: MOMENTS[moment](disk / "run"), process)
            turn_read_only(disk)
            finished = steps_of(disk / "run")
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 1, errors
            assert_one_sentence(errors)
            with after_power_loss(image, tmp_path / "copy", tmp_path / "left") as left:
                # But for one that is complete while its name is not on the disk yet.
                assert set(finished[:-1]) <= set(steps_of(left / "run"))
                whole = copy(left / "run", tmp_path / "run")
    except CannotMount as error:
        pytest.skip(f"a file system cannot be mounted: {error}")
    assert "cannot be read" not in finish(config, whole)
    assert_same_outcome(whole, undisturbed)
    count("disk read-only", moment)


def assert_one_sentence(errors):
    *progress, last = errors.splitlines()
    assert last.startswith("error: ")
    # The latter to a sync that is under way.
    assert "Read-only file system" in last or "Input/output error" in last
    assert not [line for line in progress if "rror" in line], errors


@pytest.fixture
def read_only(monkeypatch):
    """Lets nothing be removed or written from a moment on."""

    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def begin():
        for name in ("unlink", "rmdir", "rename", "replace", "fsync"):
            monkeypatch.setattr(os, name, fail)

    return begin


def test_where_nothing_can_be_removed_the_first_error_is_told(
    read_only, config, tmp_path
):
    def fail():
        with locked(tmp_path / "run", config), claimed(tmp_path / "run", config):
            read_only()
            raise InputError("the first one")

    with pytest.raises(InputError, match="the first one"):
        fail()
