"""A run of two processes with four devices each, against one of eight and of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import mbn_jax
from mbn_jax.data.dataset import load_split
from mbn_jax.data.sources import protocols_of
from mbn_jax.evaluation import evaluate
from mbn_jax.mesh import make_mesh
from mbn_jax.training.step import make_feature_fn
from mbn_jax.training.trained_network import split_features

from ..norm.test_processes import free_port
from .conftest import small_config
from .test_loop import final_state, logged
from .worker import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600


def config_of(data_dir, num_devices=0):
    """Twenty steps under which rounding does not grow: see test_parallelism.py."""
    config = small_config(data_dir)
    config.num_steps, config.eval_every, config.num_devices = 20, 10, num_devices
    config.gap_batches = 2
    config.data.image_size, config.model.last_stride = (64, 32), 1
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 3e-5
    config.optimizer.momentum = 0.0
    return config


def task(
    data_dir,
    workdir,
    num_devices=0,
    stop_after=None,
    process=None,
    parallelism="jit",
):
    config = config_of(data_dir, num_devices)
    config.parallelism = parallelism
    return {
        "config": config.to_dict(),
        "workdir": str(workdir),
        "stop_after": stop_after,
        "first_state": f"{workdir}.first.npz" if stop_after is None else None,
        "process": process,
    }


def run_in_two_processes(data_dir, workdir, **options):
    """Returns what process 0 has printed."""
    port = free_port()
    workers = []
    logs = [workdir.with_suffix(f".{i}.log") for i in (0, 1)]
    for i in (0, 1):
        argument = json.dumps(task(data_dir, workdir, process=[port, 2, i], **options))
        with logs[i].open("w") as log:
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.training.worker", argument],
                    cwd=ROOT,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "JAX_NUMPY_RANK_PROMOTION": "raise"},
                )
            )
    try:
        codes = [worker.wait(TIMEOUT_S) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert codes == [0, 0], "\n".join(log.read_text() for log in logs)
    return logs[0].read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def one_device(folder, data_dir):
    run(task(data_dir, folder / "one", num_devices=1))
    return folder / "one"


@pytest.fixture(scope="module")
def two_processes(folder, data_dir):
    run_in_two_processes(data_dir, folder / "two")
    return folder / "two"


def assert_close(actual, expected, tolerance):
    def compare(a, b):
        a, b = np.asarray(a), np.asarray(b)
        scale = max(1.0, np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)

    jax.tree.map(compare, actual, expected)


def assert_same_training(actual, expected):
    """The first step to 1e-5, the twentieth within 1e-3."""
    first, expected_first = (
        dict(np.load(f"{workdir}.first.npz")) for workdir in (actual, expected)
    )
    assert_close(first, expected_first, 1e-5)
    assert_same_end(actual, expected)


def assert_same_end(actual, expected):
    for part in ("params", "batch_stats"):
        assert_close(final_state(actual)[part], final_state(expected)[part], 1e-4)
    losses, expected_losses = (
        [line["loss"] for line in logged(workdir) if "loss" in line]
        for workdir in (actual, expected)
    )
    assert len(losses) == 20
    np.testing.assert_allclose(losses, expected_losses, rtol=0, atol=1e-3)


def test_two_processes_train_as_one_device(two_processes, one_device):
    assert_same_training(two_processes, one_device)


@pytest.mark.parametrize("parallelism", ["shard_map", "pmap"])
def test_they_do_in_the_other_ways_to_run_a_step(
    parallelism, folder, one_device, data_dir
):
    run_in_two_processes(data_dir, folder / parallelism, parallelism=parallelism)
    assert_same_training(folder / parallelism, one_device)


def test_twenty_steps_move_the_parameters_by_more_than_they_may_differ(one_device):
    first = np.load(f"{one_device}.first.npz")
    last = jax.tree.leaves(
        {k: final_state(one_device)[k] for k in ("batch_stats", "params")}
    )
    moved = [np.abs(first[f"arr_{i}"] - leaf).max() for i, leaf in enumerate(last)]
    assert max(moved) > 1e-3


def test_eight_devices_of_one_process_do_too(two_processes, one_device, data_dir):
    workdir = one_device.with_name("eight")
    run(task(data_dir, workdir, num_devices=8))
    assert_same_training(workdir, one_device)
    assert_same_training(two_processes, workdir)


def test_both_processes_have_written_the_checkpoint(two_processes):
    checkpoint = two_processes / "checkpoints" / "20" / "default"
    parts = {path.name for path in checkpoint.glob("ocdbt.process_*")}
    assert parts == {"ocdbt.process_0", "ocdbt.process_1"}


def test_one_process_has_written_logs_and_report(two_processes):
    steps = [line["step"] for line in logged(two_processes) if "loss" in line]
    assert steps == list(range(1, 21))
    assert len(list((two_processes / "tensorboard").iterdir())) == 1
    assert (two_processes / "report" / "index.html").exists()
    assert (two_processes / "gaps.json").exists()
    progress = [two_processes.with_suffix(f".{i}.log").read_text() for i in (0, 1)]
    assert "step 20/20" in progress[0]
    assert "step 20/20" not in progress[1]


def test_their_figures_are_those_of_one_device(two_processes, data_dir):
    """24 images on 8 devices, in a batch of 64: padding, and what it gives, is left."""
    config = config_of(data_dir)
    model, variables = mbn_jax.load(two_processes)
    split = load_split(config.data.dataset, "test", data_dir)
    embedding = make_feature_fn(model)
    features = split_features(
        lambda images, modality: embedding(variables, images, modality),
        split,
        model.image_size,
        num_threads=2,
        mesh=make_mesh(1),
    )
    protocols = protocols_of(config.data.dataset, split.modalities)
    expected = evaluate(features, split, protocols)
    results = json.loads((two_processes / "results.json").read_text())
    for name, figures in expected.items():
        for figure in ("mAP", "mINP", "rank1", "rank5"):
            actual = results["figures"]["last"][name][figure]
            assert actual == pytest.approx(figures[figure], abs=1e-6)


def test_one_process_goes_on_from_what_two_wrote(folder, one_device, data_dir, capfd):
    run_in_two_processes(data_dir, folder / "from_two", stop_after=10)
    assert not (folder / "from_two" / "results.json").exists()
    run(task(data_dir, folder / "from_two", num_devices=1))
    assert "resumed after step 10" in capfd.readouterr().err
    assert_same_end(folder / "from_two", one_device)


def test_two_processes_go_on_from_what_one_wrote(folder, one_device, data_dir):
    run(task(data_dir, folder / "from_one", num_devices=1, stop_after=10))
    assert not (folder / "from_one" / "results.json").exists()
    log = run_in_two_processes(data_dir, folder / "from_one")
    assert "resumed after step 10" in log
    assert_same_end(folder / "from_one", one_device)
