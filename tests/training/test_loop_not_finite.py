"""Steps whose loss is not finite: the run stops, or skips as many as it may."""

import json

import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.training import loop
from mbn_jax.training.loop import train

from .test_loop import assert_same_outcome, final_state


def mislabel(monkeypatch, *steps):
    """In these steps every image has a modality that does not exist: all is NaN."""
    train_batches = loop.train_batches

    def mislabeled(*arguments, start, **options):
        batches = train_batches(*arguments, start=start, **options)
        for step, batch in enumerate(batches, start + 1):
            if step in steps:
                batch["modality"] = np.full_like(batch["modality"], 7)
            yield batch

    monkeypatch.setattr(loop, "train_batches", mislabeled)


def logged(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if "skipped" in line}


def test_before_the_first_checkpoint_nothing_stays(config, tmp_path):
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e30, 0
    with pytest.raises(InputError, match=r"at step [23]; there was no checkpoint yet"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_run_stops_and_its_checkpoints_stay(
    config, finished, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        mislabel(patch, 5)
        with pytest.raises(InputError, match="nan at step 5; the checkpoint of step 4"):
            train(config, workdir)
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"2", "4"}
    train(config, workdir)
    assert_same_outcome(workdir, finished[0])


def test_allowed_ones_are_skipped_and_counted(config, tmp_path, monkeypatch, capfd):
    config.max_skipped_in_a_row = 2
    mislabel(monkeypatch, 2, 4, 5)
    train(config, tmp_path)
    state = final_state(tmp_path)
    assert int(state["step"]) == 6
    assert (int(state["skipped"]), int(state["skipped_in_a_row"])) == (3, 0)
    assert np.isfinite(state["batch_stats"]["neck"]["mean"]).all()
    steps = logged(tmp_path)
    assert [steps[n]["skipped"] for n in range(1, 7)] == [0, 1, 1, 2, 3, 3]
    assert "loss" not in steps[4]
    assert "at step 5: skipped, 2 in a row, 3 in all" in capfd.readouterr().err


def test_a_skipped_step_changes_nothing(config, tmp_path, monkeypatch):
    config.max_skipped_in_a_row, config.num_steps = 1, 3
    with monkeypatch.context() as patch:
        mislabel(patch, 3)
        train(config, tmp_path / "skipped")
    before = final_state(tmp_path / "skipped", 2)
    after = final_state(tmp_path / "skipped", 3)
    for part in ("params", "batch_stats", "opt_state"):
        np.testing.assert_equal(after[part], before[part])


def test_more_in_a_row_than_allowed_stop_the_run(config, tmp_path, monkeypatch):
    config.max_skipped_in_a_row = 1
    mislabel(monkeypatch, 1, 3, 4)
    with pytest.raises(InputError, match="step 4, 2 such in a row; the check"):
        train(config, tmp_path)


def test_they_are_counted_across_a_restart(config, tmp_path, monkeypatch):
    """The count is in the checkpoint: a run that stops and starts is the same run."""
    config.max_skipped_in_a_row = 2
    with monkeypatch.context() as patch:
        mislabel(patch, 3, 4)
        patch.setattr(loop.Checkpoints, "save", stop_after(4))
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
    mislabel(monkeypatch, 5)
    with pytest.raises(InputError, match="step 5, 3 such in a row"):
        train(config, tmp_path)


def stop_after(last):
    save = loop.Checkpoints.save

    def stopping(self, step, *arguments):
        save(self, step, *arguments)
        if step == last:
            raise KeyboardInterrupt

    return stopping
