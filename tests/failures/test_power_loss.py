"""What is on the disk after a loss of power, simulated: only what was synced is there.

`power_loss.py` beside this file loses the power of a real file system, as root.
"""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from mbn_jax.data.catalog import VERSION, is_prepared
from mbn_jax.data.dataset import load_split
from mbn_jax.files import UNFINISHED, make_folder, remove_unfinished, write_atomically
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.state import ModelState
from mbn_jax.training.workdir import locked

from .faults import assert_equal_states, steps_of


class Disk:
    """Remembers what `os.fsync` has put on the disk: contents, and names in folders.

    A rename may have reached the disk before it was synced, or not: `after_power_loss`
    makes either. Files and folders go by their inode numbers.
    """

    def __init__(self, root, monkeypatch):
        self.root = root
        self._content, self._names, self._renamed = {}, {}, {}
        self._folders, self._held = set(), []
        self.when_renamed = lambda target: None
        self._fsync, self._rename = os.fsync, os.rename
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "rename", self.rename)
        monkeypatch.setattr(os, "replace", self.rename)

    def fsync(self, descriptor):
        self._fsync(descriptor)
        # Held open, so that its number is not given to another file.
        self._held.append(os.dup(descriptor))
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self._names[number(path)] = {p.name: number(p) for p in path.iterdir()}
            self._folders |= {number(p) for p in path.iterdir() if p.is_dir()}
            self._renamed.pop(number(path), None)
        else:
            self._content[number(path)] = path.read_bytes()

    def rename(self, source, target, **_):
        self._rename(source, target)
        target = Path(target)
        moved = self._renamed.setdefault(number(target.parent), {})
        moved[target.name] = number(target)
        if target.is_dir():
            self._folders.add(number(target))
        self.when_renamed(target)

    def after_power_loss(self, target, *, with_renames):
        """Writes what is left to a new folder."""
        self._write(number(self.root), target, with_renames)
        return target

    def _write(self, folder, target, with_renames):
        target.mkdir()
        names = dict(self._names.get(folder, {}))
        if with_renames:
            moved = self._renamed.get(folder, {})
            names = {n: i for n, i in names.items() if i not in moved.values()} | moved
        for name, inside in names.items():
            if inside in self._folders:
                self._write(inside, target / name, with_renames)
            else:
                (target / name).write_bytes(self._content.get(inside, b""))

    def close(self):
        for descriptor in self._held:
            os.close(descriptor)


def number(path):
    return Path(path).stat().st_ino


@pytest.fixture
def disk(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk", monkeypatch)
    yield disk
    disk.close()


def test_a_file_is_there_with_its_content_after_a_loss_of_power(disk, tmp_path):
    path = disk.root / "new" / "folder" / "config.json"
    for content in (b"first", b"second"):
        write_atomically(path, content)
        for with_renames in (False, True):
            left = tmp_path / f"{content.decode()}-{with_renames}"
            disk.after_power_loss(left, with_renames=with_renames)
            assert (left / "new" / "folder" / "config.json").read_bytes() == content


def test_a_file_that_is_being_replaced_is_the_old_one_or_the_new_one(disk, tmp_path):
    path = disk.root / "config.json"
    write_atomically(path, b"old")
    found = {}

    def lose_power(_):
        for with_renames in (False, True):
            left = tmp_path / str(with_renames)
            disk.after_power_loss(left, with_renames=with_renames)
            found[with_renames] = (left / "config.json").read_bytes()

    disk.when_renamed = lose_power
    write_atomically(path, b"new")
    assert found == {False: b"old", True: b"new"}


def test_a_work_directory_has_its_name_before_what_is_in_it(disk, config, tmp_path):
    workdir = disk.root / "runs" / "first"
    with locked(workdir, config), Checkpoints(workdir) as checkpoints:
        checkpoints.save(2, state_of(2), None)
        checkpoints.wait()
        left = disk.after_power_loss(tmp_path / "left", with_renames=False)
    assert steps_of(left / "runs" / "first") == [2]


def state_of(step):
    return ModelState(jnp.int32(step), *(jnp.full(3, step + i) for i in range(5)))


def test_no_finished_checkpoint_is_lost_or_half_there(disk, tmp_path, capfd):
    """The power is lost as each gets its name, and after each."""
    workdir, losses = disk.root / "run", []

    def lose_power(target=None):
        if target is None or target.name.isdecimal():
            for with_renames in (False, True):
                left = tmp_path / f"loss-{len(losses)}"
                disk.after_power_loss(left, with_renames=with_renames)
                losses.append(left / "run")

    disk.when_renamed = lose_power
    make_folder(workdir)
    with Checkpoints(workdir) as checkpoints:
        for step in (2, 4, 6, 8):
            checkpoints.save(step, state_of(step), 1 / step)
            checkpoints.wait()
            lose_power()
    newest = []
    for left in losses:
        assert not (left / "damaged_checkpoints").exists()
        with Checkpoints(left) as checkpoints:
            restored = checkpoints.restore_newest(state_of(0))
        newest.append(restored[0] if restored else 0)
        if restored:
            assert_equal_states(restored[1], jax.tree.leaves(state_of(newest[-1])))
            assert 2 in steps_of(left)  # the best
    # As its name is given without and with that name on the disk; after it, twice.
    assert newest == [0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6, 8, 8, 8]
    assert "cannot be read" not in capfd.readouterr().err


def test_a_prepared_data_set_is_there_as_a_whole_or_not_at_all(disk, tmp_path):
    name, lost = "synthetic_vireid/nir-6-2-2-x2", []

    def lose_power(target):
        if target.name == VERSION:
            for with_renames in (False, True):
                left = tmp_path / str(with_renames)
                shutil.rmtree(left, ignore_errors=True)
                disk.after_power_loss(left, with_renames=with_renames)
                lost.append(is_prepared(name, left / "data"))

    disk.when_renamed = lose_power
    images = len(load_split(name, "train", disk.root / "data"))
    # First TFDS gives it that name, inside of ours; nothing of that counts.
    assert lost[-2:] == [False, True]
    disk.after_power_loss(tmp_path / "left", with_renames=False)
    for left in ("True", "left"):
        assert is_prepared(name, tmp_path / left / "data")
        assert len(load_split(name, "train", tmp_path / left / "data")) == images


def test_a_simulated_loss_takes_what_was_not_synced(disk, tmp_path):
    """Otherwise the tests above could not fail."""
    (disk.root / "here").write_bytes(b"content")
    os.replace(disk.root / "here", disk.root / "there")
    left = disk.after_power_loss(tmp_path / "left", with_renames=True)
    assert (left / "there").read_bytes() == b""
    left = disk.after_power_loss(tmp_path / "other", with_renames=False)
    assert list(left.iterdir()) == []


def test_what_a_killed_run_could_not_finish_is_removed_at_the_next_start(
    config, tmp_path
):
    workdir = tmp_path / "run"
    left = [workdir / f"config.jsonx1{UNFINISHED}", workdir / f"report/x{UNFINISHED}"]
    (workdir / "report").mkdir(parents=True)
    write_atomically(
        workdir / "config.json",
        json.dumps(config.to_dict()).encode(),
    )
    for path in left:
        path.write_bytes(b"half")
    with locked(workdir, config):
        assert {path.name for path in workdir.iterdir()} == {
            "config.json",
            "lock",
            "report",
        }
        assert list((workdir / "report").iterdir()) == []


def test_checkpoints_that_a_killed_run_could_not_finish_are_removed(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state_of(2), None)
    for left in ("", "-written"):
        folder = tmp_path / f"checkpoints/4.orbax-checkpoint-tmp{left}"
        shutil.copytree(tmp_path / "checkpoints" / "2", folder)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2]
        checkpoints.save(4, state_of(4), None)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"2", "4"}


def test_only_what_could_not_be_finished_is_removed(tmp_path):
    write_atomically(tmp_path / "a", b"whole")
    (tmp_path / f"b{UNFINISHED}").write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
