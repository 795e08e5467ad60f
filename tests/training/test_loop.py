"""Whole runs: what they leave, that they repeat, and that they survive interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict

import mbn_jax
from mbn_jax.errors import InputError
from mbn_jax.training.loop import train

TRAIN = Path(__file__).parents[2] / "experiments" / "train.py"


def overrides(config):
    """The configuration as flags."""
    flat = flatten_dict(config.to_dict(), sep=".")
    return [f"--config.{key}={value}" for key, value in flat.items()]


def start(workdir, *flags, **environment):
    """Starts a training process, in another current directory.

    With as many CPU devices as this process has: their number sets that of the threads,
    over which XLA splits its sums.
    """
    devices = {"JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    return subprocess.Popen(
        [sys.executable, TRAIN, f"--workdir={workdir}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(workdir).parent,
        env={**os.environ, **devices, **environment},
    )


def final_state(workdir, step=None):
    """Everything in the last checkpoint, or another one, as NumPy arrays."""
    step = step or max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    path = workdir / "checkpoints" / str(step) / "default"
    with ocp.PyTreeCheckpointer() as checkpointer:
        as_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            checkpointer.metadata(path).item_metadata.tree,
        )
        return checkpointer.restore(path, restore_args=as_numpy)


def logged(workdir):
    return [json.loads(s) for s in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_outcome(one, other):
    """Bit for bit: parameters, statistics, optimizer state, and figures."""
    jax.tree.map(np.testing.assert_array_equal, final_state(one), final_state(other))
    assert (one / "results.json").read_text() == (other / "results.json").read_text()


def snapshot(directory):
    """Every file below a directory with its content."""
    return {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_a_run_leaves_what_is_promised(finished):
    workdir, results = finished
    assert {p.name for p in workdir.iterdir()} == {
        "config.json",
        "dataset.json",
        "environment.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "results.json",
        "report",
    }
    assert json.loads((workdir / "results.json").read_text()) == results
    assert set(results["figures"]) == {"last", "best", "untrained", "chance"}
    assert "<html" in (workdir / "report" / "index.html").read_text()
    versions = json.loads((workdir / "environment.json").read_text())["versions"]
    assert versions["jax"] == jax.__version__


def test_every_step_is_logged_once_and_validation_with_it(finished):
    lines = logged(finished[0])
    assert [e["step"] for e in lines if "loss" in e] == [1, 2, 3, 4, 5, 6]
    validations = [e for e in lines if "val/infrared_to_visible/mAP" in e]
    assert [e["step"] for e in validations] == [2, 4, 6]


def test_the_best_step_is_the_best_of_the_validations(finished):
    workdir, results = finished
    lines = logged(workdir)
    directions = ("infrared_to_visible", "visible_to_infrared")
    score = {
        e["step"]: np.mean([e[f"val/{d}/mAP"] for d in directions])
        for e in lines
        if "val/infrared_to_visible/mAP" in e
    }
    assert results["figures"]["best"]["step"] == max(score, key=lambda s: (score[s], s))
    assert results["figures"]["last"]["step"] == 6


def test_the_same_run_elsewhere_has_the_same_outcome(config, finished, tmp_path):
    train(config, tmp_path / "again")
    assert_same_outcome(tmp_path / "again", finished[0])


def test_strict_promotion_changes_no_result(config, finished, tmp_path):
    with jax.numpy_dtype_promotion("strict"):
        train(config, tmp_path / "run")
    assert_same_outcome(tmp_path / "run", finished[0])


def test_a_run_under_x64_keeps_its_arrays_in_float32(config, finished, tmp_path):
    config.num_steps = config.eval_every
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        train(config, tmp_path / "run")

    def types(workdir):
        return jax.tree.map(lambda leaf: leaf.dtype, final_state(workdir))

    assert types(tmp_path / "run") == types(finished[0])


def test_a_finished_run_started_again_changes_no_result(config, finished, tmp_path):
    train(config, tmp_path / "run")
    before = snapshot(tmp_path / "run" / "checkpoints")
    train(config, tmp_path / "run")
    assert snapshot(tmp_path / "run" / "checkpoints") == before
    assert_same_outcome(tmp_path / "run", finished[0])


def test_a_run_killed_at_two_moments_ends_the_same(config, finished, tmp_path):
    workdir = tmp_path / "run"
    for step in (1, 5):  # before the first checkpoint and after two
        process = start(workdir, *overrides(config))
        metrics = workdir / "metrics.jsonl"
        while process.poll() is None and not (
            metrics.exists() and f'{{"step": {step},' in metrics.read_text()
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (workdir / "results.json").exists()
    output, errors = (process := start(workdir, *overrides(config))).communicate()
    assert process.returncode == 0, errors
    assert "last step (6)" in output
    assert str(workdir / "report" / "index.html") in output
    assert_same_outcome(workdir, finished[0])
    lines = logged(workdir)
    assert [e["step"] for e in lines if "loss" in e] == [1, 2, 3, 4, 5, 6]


def test_load_gives_the_network_back(config, finished):
    workdir, results = finished
    model, variables = mbn_jax.load(workdir)
    stored = final_state(workdir)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], stored["params"])
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 20, 3), dtype=np.uint8)
    features = mbn_jax.embed(model, variables, images, 1)
    assert features.shape == (3, 32)
    assert features.dtype == np.float32
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        on_eight = mbn_jax.embed(model, variables, images, 1)
    np.testing.assert_array_equal(on_eight, features)
    best = results["figures"]["best"]["step"]
    chosen = mbn_jax.load(workdir, "best")[1], mbn_jax.load(workdir, best)[1]
    jax.tree.map(np.testing.assert_array_equal, *chosen)
    with pytest.raises(InputError, match="no checkpoint 3"):
        mbn_jax.load(workdir, 3)
    with pytest.raises(InputError, match="not a work directory"):
        mbn_jax.load(workdir / "report")


def test_no_run_imports_tensorflow(config, tmp_path):
    trap = tmp_path / "trap" / "tensorflow"
    trap.mkdir(parents=True)
    marker = tmp_path / "imported"
    (trap / "__init__.py").write_text(
        f"open({str(marker)!r}, 'w')\nraise SystemExit(9)"
    )
    config.num_steps = 2
    config.data.data_dir = str(tmp_path / "data")  # prepared in this run, too
    process = start(
        tmp_path / "run", *overrides(config), PYTHONPATH=str(tmp_path / "trap")
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert not marker.exists()


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("tensorflow", "tensorflow_datasets", "grain", "matplotlib", "orbax", "cv2")
    code = f"import sys, mbn_jax; print([m for m in {heavy} if m in sys.modules])"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "[]"
