"""Records that are damaged while a run reads them: a sentence, and a checkpoint."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from mbn_jax.data.dataset import load_split
from mbn_jax.errors import InputError
from mbn_jax.training import loop
from mbn_jax.training.loop import train

from .faults import steps_of


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def write_over(path):
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))


@pytest.fixture
def config(config, data_dir, tmp_path):
    """Of a run on data of its own, to be damaged."""
    load_split(config.data.dataset, "train", data_dir)
    shutil.copytree(data_dir, tmp_path / "data")
    config.data.data_dir = str(tmp_path / "data")
    config.num_steps, config.eval_every = 12, 4
    return config


def parameters(workdir):
    from mbn_jax.training.trained_network import load_with_step

    return load_with_step(workdir)[1]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, write_over])
def test_run_whose_records_are_damaged_ends_with_a_sentence_and_goes_on(
    config, damage, tmp_path, monkeypatch, count
):
    directory = Path(config.data.data_dir)
    whole = shutil.copytree(directory, tmp_path / "whole")
    train(config, tmp_path / "undisturbed")
    (path,) = directory.rglob("*-train.array_record*")
    add = loop.StepLog.add

    def damaging(self, step, metrics):
        add(self, step, metrics)
        if step == 7:
            damage(path)

    with monkeypatch.context() as patch:
        patch.setattr(loop.StepLog, "add", damaging)
        with pytest.raises(
            InputError, match=r"Record \d+ of .* is damaged \("
        ) as error:
            train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert steps_of(tmp_path / "run")[-1] >= 4

    shutil.rmtree(directory)
    shutil.copytree(whole, directory)
    train(config, tmp_path / "run")
    jax.tree.map(
        np.testing.assert_array_equal,
        parameters(tmp_path / "run"),
        parameters(tmp_path / "undisturbed"),
    )
    count(f"records changed while a run reads them ({damage.__name__})", "refused")


@pytest.mark.slow
def test_run_whose_records_are_deleted_reads_on(config, tmp_path, monkeypatch, count):
    """The files are open, and the system keeps them as long."""
    train(config, tmp_path / "undisturbed")
    add = loop.StepLog.add

    def deleting(self, step, metrics):
        add(self, step, metrics)
        if step == 7:
            shutil.rmtree(config.data.data_dir)

    monkeypatch.setattr(loop.StepLog, "add", deleting)
    train(config, tmp_path / "run")
    jax.tree.map(
        np.testing.assert_array_equal,
        parameters(tmp_path / "run"),
        parameters(tmp_path / "undisturbed"),
    )
    count("records deleted while a run reads them", "the same end")
