"""Mistakes: one clear sentence, exit status 1, and the work directory as it was."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from mbn_jax.data import dataset
from mbn_jax.errors import InputError
from mbn_jax.training import launch, run_grid
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.grid import Run
from mbn_jax.training.loop import train
from mbn_jax.training.state import ModelState

from ..commands import in_process

TRAIN = Path(__file__).parents[2] / "experiments" / "train.py"


def refused(config, workdir, message):
    """Starts the run and expects a refusal that leaves the directory as it was."""
    before = snapshot(workdir)
    with pytest.raises(InputError, match=message) as error:
        train(config, workdir)
    assert "\n" not in str(error.value)
    assert snapshot(workdir) == before


def snapshot(directory):
    """Every file below a directory with its content; None if there is no directory."""
    if not directory.exists():
        return None
    return {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.model.detph=50", "did you mean 'model.depth'?"),
        ("--config.lerning_rate=1", "did you mean 'optimizer.learning_rate'?"),
        ("--config.num_steps=many", "num_steps"),
        ("--config.model.norm=gn", "config.model.norm is 'gn', expected mbn or bn"),
        ("--config=/no/such/file.py", "/no/such/file.py"),
        ("--config=agw:nir", "error: There is no data set 'nir'"),
        ("--config=x.json", "error: there is no recipe and no file 'x.json'"),
        ("--flagfile=/no/such/file", "the flags cannot be read"),
        ("--wrokdir=x", "wrokdir"),
        ("surplus", "surplus"),
        # Of several processes:
        ("--num_processes=2", "--coordinator_address is missing"),
        ("--num_processes=0", "num_processes"),
        (f"--num_processes={10**20}", "num_processes"),
    ],
)
def test_a_wrong_flag_is_one_sentence_and_exit_status_one(
    flag, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    # It would change the whole process of the tests.
    monkeypatch.setattr(launch, "silence_raised_errors", lambda: None)
    done = in_process.run("train", f"--workdir={tmp_path / 'run'}", flag)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert not any(tmp_path.iterdir())


def test_a_data_directory_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").touch()
    config.data.data_dir = str(tmp_path / "file" / "data")
    refused(
        config,
        tmp_path / "run",
        r"file/data/.* cannot be written to, because .*file is not a folder",
    )


def test_a_work_directory_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").touch()
    refused(config, tmp_path / "file" / "run", "work directory .* cannot be written")


@pytest.mark.parametrize("name", ["[bold]é", "a*b", "a?b", "a\\b", "a**b", "logs:"])
def test_a_path_that_checkpoints_cannot_have(name, config, tmp_path):
    with pytest.raises(
        InputError, match=r"cannot be written to .*, because its path holds"
    ):
        train(config, tmp_path / name / "run")
    run = Run({}, config, tmp_path / name / "run")
    with pytest.raises(
        InputError, match=r"cannot be written to .*, because its path holds"
    ):
        run_grid.carry_out([run], tmp_path / name, 1, TRAIN.parent)
    assert not any(tmp_path.iterdir())


STATE = ModelState(jnp.int32(2), *({"leaf": jnp.ones(3)},) * 5)


@pytest.mark.parametrize("name", ["a]b#{é} %2F$x'", "s3:", "~x"])
def test_checkpoints_have_a_path_with_other_characters(name, tmp_path):
    with Checkpoints(tmp_path / name) as checkpoints:
        checkpoints.save(2, STATE, 0.5)
    with Checkpoints(tmp_path / name, to_write=False) as checkpoints:
        assert checkpoints.restore_variables(2)["params"]["leaf"].sum() == 3


def test_checkpoints_are_read_from_a_folder_that_was_renamed(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(2, STATE, 0.5)
    for name in ("[bold]", "a*b?"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        with Checkpoints(tmp_path / name, to_write=False) as checkpoints:
            assert checkpoints.restore_variables(2)["params"]["leaf"].sum() == 3
    for name in ("a\\b", "a**b", "logs:"):
        with pytest.raises(InputError, match="Checkpoints cannot be read from"):
            Checkpoints(tmp_path / name, to_write=False)


def test_more_identities_in_a_batch_than_there_are(config, tmp_path):
    config.batch.num_identities = 7
    refused(config, tmp_path / "run", "7 identities .* 6 identities")


def test_a_batch_that_does_not_divide_over_the_devices(config, tmp_path):
    config.batch.num_identities, config.num_devices = 3, 8
    refused(config, tmp_path / "run", "batch of 12 images .* over 8 devices")


def test_more_devices_than_there_are(config, tmp_path):
    config.num_devices = 9
    refused(config, tmp_path / "run", "num_devices is 9, but JAX found 8")


def test_a_work_directory_of_another_configuration(config, finished):
    config.model.norm = "bn"
    refused(config, finished[0], "model.norm was 'mbn' and is now 'bn'")


def test_an_image_that_cannot_be_decoded(config, tmp_path, monkeypatch):
    load_split = dataset.load_split

    class Damaged:
        def __init__(self, source):
            self.source = source

        def __getitem__(self, index):
            record = dict(self.source[index])
            return record | {"image": record["image"][:100]} if index == 5 else record

    def load_damaged(*arguments, **options):
        loaded = load_split(*arguments, **options)
        object.__setattr__(loaded, "source", Damaged(loaded.source))
        return loaded

    monkeypatch.setattr("mbn_jax.training.run_data.load_split", load_damaged)
    name = load_split(config.data.dataset, "train", config.data.data_dir).name[5]
    refused(config, tmp_path / "run", name)


def test_a_directory_with_files_of_somebody_else(config, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.bin").write_text("precious")
    refused(config, tmp_path, "holds files and no config.json")
