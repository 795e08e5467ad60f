"""A disk that fills: one sentence, exit status 1, and what was saved stays."""

import contextlib
import itertools
import os
import shutil
import subprocess

import pytest

from mbn_jax.training.logs import EventFile, MetricWriter

from ..training.test_loop import assert_same_outcome, overrides, snapshot, start
from .faults import copy, finish, steps_of


@contextlib.contextmanager
def disk(path, size):
    """A file system in memory, which is really full when it is full."""
    path.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted: {made.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path, room):
    """Takes all of a disk but so many bytes; returns the file that takes it."""
    ballast = path / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(path).free - room)
    assert shutil.disk_usage(path).free == room
    return ballast


def fails_for_lack_of_room(config, workdir):
    """One sentence beside the progress, exit status 1."""
    process = start(workdir, *overrides(config))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    *progress, last = errors.splitlines()
    assert last.startswith("error: ")
    assert "no space left on" in last.lower()
    assert "Traceback" not in errors
    assert not [line for line in progress if "rror" in line], errors
    return last


@pytest.mark.slow
@pytest.mark.parametrize("room_kb", [0, 12, 300, 900])
def test_a_full_disk_ends_the_run_and_leaves_its_checkpoints(
    room_kb, config, half_done, undisturbed, tmp_path, count
):
    """Full at the start, at the first log line, in the first save, and in a later one.

    The undisturbed run needs more than two checkpoints' room beside those it keeps.
    """
    with disk(tmp_path / "disk", "16m") as small:
        workdir = copy(half_done, small / "run")
        before = {step: saved(workdir, step) for step in steps_of(workdir)}
        ballast = fill(small, room_kb * 1024)
        last = fails_for_lack_of_room(config, workdir)
        count("disk full", f"at {room_kb} KB of room: {kind_of(last)}")
        after = steps_of(workdir)
        assert len(after) >= 2
        assert all(saved(workdir, s) == before[s] for s in before if s in after)
        if room_kb < 300:
            assert after == sorted(before)
        ballast.unlink()
        assert f"resumed after step {max(after)}" in finish(config, workdir)
        assert_same_outcome(workdir, undisturbed)


def saved(workdir, step):
    return snapshot(workdir / "checkpoints" / str(step))


def kind_of(error):
    return "checkpoint" if "checkpoint cannot be written" in error else "logs"


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_beginning_leaves_nothing(
    config, undisturbed, tmp_path, count
):
    with disk(tmp_path / "disk", "16m") as small:
        for room_kb in (0, 300):
            ballast = fill(small, room_kb * 1024)
            fails_for_lack_of_room(config, small / "run")
            assert not (small / "run").exists()
            count("disk full", f"from the beginning, {room_kb} KB of room")
        ballast.unlink()
        finish(config, small / "run")
        assert_same_outcome(small / "run", undisturbed)


@pytest.mark.slow
def test_where_only_the_event_file_finds_no_room_the_run_ends_too(
    config, half_done, undisturbed, tmp_path, count
):
    workdir = copy(half_done, tmp_path / "run")
    with disk(workdir / "tensorboard", "4k"):
        fails_for_lack_of_room(config, workdir)
        count("disk full", "for TensorBoard alone")
    finish(config, workdir)
    assert_same_outcome(workdir, undisturbed)


def write_without_end(writer):
    for step in itertools.count(1):
        writer.write(step, {f"value_{i}": float(step) for i in range(20)})


def test_a_full_disk_is_an_error_where_a_metric_is_written(tmp_path):
    """And not a wait without end, nor an error of a thread that nobody hears."""
    with disk(tmp_path / "disk", "16k") as small:
        events = EventFile(small / "tensorboard", 0)
        with pytest.raises(OSError, match="No space left on device"):
            write_without_end(events)
        with pytest.raises(OSError, match="No space left on device"):
            events.close()
        shutil.rmtree(small / "tensorboard")
        with (
            pytest.raises(OSError, match="No space left on device"),
            MetricWriter(small, start_step=0) as writer,
        ):
            write_without_end(writer)
