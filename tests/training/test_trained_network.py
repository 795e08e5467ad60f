"""A trained network by a protocol, and RegDB's ten networks together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mbn_jax
from mbn_jax.data.dataset import Split
from mbn_jax.data.pipeline import load_images
from mbn_jax.data.sources import protocols_of
from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    evaluate_chance,
    every_pair,
    format_table,
    l2_normalize,
    make_results,
)
from mbn_jax.evaluation.results import evaluate_file
from mbn_jax.evaluation.table import format_evaluation
from mbn_jax.training import trained_network
from mbn_jax.training.config import as_json, default_config
from mbn_jax.training.diagnostics import workdir_gaps
from mbn_jax.training.trained_network import (
    Network,
    evaluate_workdir,
    save_test_features,
)

COUNTS = ("num_queries", "num_valid_queries", "gallery_size")
FIGURES = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_work_directory_is_evaluated_as_at_the_end_of_training(finished, checkpoint):
    workdir, results = finished
    again = evaluate_workdir(str(workdir), Network(checkpoint), {}, "cosine")
    expected = results["figures"][checkpoint]["infrared_to_visible"]
    assert again["protocol"] == "infrared_to_visible"
    for key in (*FIGURES, *COUNTS):
        assert again[key] == pytest.approx(expected[key], abs=1e-6)
    step = results["figures"][checkpoint]["step"]
    label = ", best on validation" if checkpoint == "best" else ""
    assert again["source"] == f"{workdir}, step {step} of 6{label}"


def test_the_other_direction_is_an_option(finished):
    workdir, results = finished
    again = evaluate_workdir(
        str(workdir), Network(), {"direction": "visible_to_infrared"}, "cosine"
    )
    expected = results["figures"]["last"]["visible_to_infrared"]["mAP"]
    assert again["mAP"] == pytest.approx(expected, abs=1e-6)


def test_flip_averaged_features_are_means_with_the_mirror_image(finished, data_dir):
    workdir, _ = finished
    split = trained_network.test_split(workdir, Network())
    features, label = trained_network.test_features(
        workdir, Network(flip_average=True), split
    )
    assert label.endswith("flip-averaged")
    model, variables = mbn_jax.load(workdir)
    images = load_images(split, np.arange(len(split)), model.image_size)
    plain, _ = trained_network.test_features(workdir, Network(), split)
    mirrored = mbn_jax.embed(model, variables, images[:, :, ::-1], split.modality)
    # Each of them has unit length first.
    alone = l2_normalize(plain)
    np.testing.assert_allclose(2 * features - alone, mirrored, rtol=0, atol=1e-4)
    assert np.abs(mirrored - alone).max() > 1e-3


def test_saved_features_give_the_same_figures(finished, tmp_path):
    workdir, _ = finished
    said = save_test_features(str(workdir), Network(), tmp_path / "f.npz")
    assert "features (24, 32) of synthetic_vireid/nir-6-2-2-x2" in said
    from_file = evaluate_file(tmp_path / "f.npz", every_pair()[0])
    direct = evaluate_workdir(str(workdir), Network(), {}, "cosine")
    for key in (*FIGURES, *COUNTS, "cmc", "trials", "protocol", "description"):
        assert from_file[key] == direct[key]


def test_a_place_for_features_is_refused_before_the_evaluation(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "f.npz", ""):
        with pytest.raises(InputError, match="cannot be written"):
            save_test_features(str(tmp_path / "nowhere"), Network(), place)


def test_features_of_ten_splits_are_saved_one_by_one(tmp_path):
    with pytest.raises(InputError, match="one work directory at a time"):
        save_test_features(str(tmp_path / "run_{split}"), Network(), tmp_path / "f.npz")


def test_a_checkpoint_may_be_a_step(finished):
    workdir, _ = finished
    source = evaluate_workdir(str(workdir), Network("4"), {}, "cosine")["source"]
    assert source.endswith("step 4 of 6")


def test_data_that_are_not_there_are_an_error_and_are_not_made(finished, tmp_path):
    workdir, _ = finished
    for use in (
        lambda directory: trained_network.test_split(
            workdir, Network(data_dir=directory)
        ),
        lambda directory: workdir_gaps(workdir, 1, directory),
    ):
        with pytest.raises(InputError, match=r"is not prepared in .*; say where it is"):
            use(str(tmp_path / "mistyped"))
        with pytest.raises(InputError, match="data is given as an empty text"):
            use("")
    assert not list(tmp_path.iterdir())


def test_data_that_lie_relative_to_another_folder_are_not_made_here(
    finished, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["data_dir"] = "data"
    (workdir / "config.json").write_text(json.dumps(config))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for use in (
        lambda: trained_network.test_split(workdir, Network()),
        lambda: workdir_gaps(workdir, 1),
    ):
        with pytest.raises(InputError, match=r"is not prepared in data.*; say where"):
            use()
    assert not any(Path().iterdir())


@pytest.fixture
def ten_runs(tmp_path, monkeypatch):
    """Finished runs of RegDB's ten splits, with features made up by their number."""
    for number in range(1, 11):
        config = default_config()
        config.data.dataset = f"regdb/split{number}"
        workdir = tmp_path / f"run_{number}"
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps(as_json(config)))
        results = {"figures": {"last": {"step": config.num_steps}}}
        (workdir / "results.json").write_text(json.dumps(results))

    def made_up_split(workdir, network):
        number = int(str(workdir).rpartition("_")[2])
        identity, modality = np.repeat(np.arange(4), 4), np.tile([0, 0, 1, 1], 4)
        return Split(
            dataset=f"regdb/split{number}",
            split="test",
            source=[],
            identity=identity,
            camera=1 + modality,
            modality=modality,
            name=np.arange(16).astype(str),
        )

    def made_up_features(workdir, network, split):
        number = int(str(workdir).rpartition("_")[2])
        rng = np.random.default_rng(number)
        return rng.normal(size=(16, 8)).astype(np.float32), str(workdir)

    monkeypatch.setattr(trained_network, "test_split", made_up_split)
    monkeypatch.setattr(trained_network, "test_features", made_up_features)
    return tmp_path


def evaluate_splits(directory, **options):
    return evaluate_workdir(
        str(directory / "run_{split}"), Network(), options, "cosine"
    )


def test_ten_finished_splits_give_the_ten_split_result(ten_runs):
    result = evaluate_splits(ten_runs)
    singles = [
        evaluate_workdir(str(ten_runs / f"run_{n}"), Network(), {}, "cosine")
        for n in range(1, 11)
    ]
    assert result["protocol"] == "regdb_visible_to_infrared_ten_splits"
    assert result["title"] == "visible → thermal, mean of the ten splits"
    assert [trial["split"] for trial in result["trials"]] == list(range(1, 11))
    for key in FIGURES:
        values = [single[key] for single in singles]
        assert result[key] == pytest.approx(np.mean(values))
        assert [trial[key] for trial in result["trials"]] == values
    assert "split3 alone" in singles[2]["title"]
    text = format_evaluation(result)
    assert "mean ± standard deviation over 10 splits" in text
    assert f"{100 * np.std([s['mAP'] for s in singles], ddof=1):.1f}" in text


@pytest.mark.parametrize("how", ["absent", "unfinished", "stopped"])
def test_fewer_splits_are_reported_as_what_they_are(ten_runs, how):
    results = ten_runs / "run_4" / "results.json"
    if how == "absent":
        (ten_runs / "run_4").rename(ten_runs / "elsewhere")
    elif how == "unfinished":
        results.unlink()
    else:
        results.write_text(json.dumps({"figures": {"last": {"step": 3}}}))
    result = evaluate_splits(ten_runs)
    assert result["splits"] == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert "ten_splits" not in result["protocol"]
    assert "ONLY 9 of the ten splits (1, 2, 3, 5, 6, 7, 8, 9, 10)" in result["title"]
    assert "not the ten-split result" in format_evaluation(result)
    assert len(result["trials"]) == 9


def test_no_finished_split_is_an_error(tmp_path):
    with pytest.raises(
        InputError, match=r"None of .*run_1 … .*run_10 holds a finished"
    ):
        evaluate_splits(tmp_path)


def test_runs_of_a_data_set_without_splits_are_no_mean(ten_runs):
    for number in range(1, 11):
        path = ten_runs / f"run_{number}" / "config.json"
        rewrite(path, data={"dataset": "synthetic_vireid/nir"})
    with pytest.raises(
        InputError, match="trained on synthetic_vireid/nir, which has no splits"
    ):
        evaluate_splits(ten_runs)


def rewrite(path, **changes):
    config = json.loads(path.read_text())
    config["data"] |= changes.pop("data", {})
    path.write_text(json.dumps(config | changes))


def test_a_run_of_another_split_is_refused(ten_runs):
    rewrite(ten_runs / "run_4" / "config.json", data={"dataset": "regdb/split5"})
    with pytest.raises(InputError, match="run_4 was trained on regdb/split5"):
        evaluate_splits(ten_runs)


def test_runs_of_different_recipes_are_no_mean(ten_runs):
    rewrite(ten_runs / "run_4" / "config.json", seed=7, log_every=99)
    evaluate_splits(ten_runs)
    rewrite(ten_runs / "run_4" / "config.json", data={"image_size": [32, 16]})
    with pytest.raises(InputError, match=r"run_4 has data\.image_size = \(32, 16\)"):
        evaluate_splits(ten_runs)


def test_a_test_set_that_is_not_complete_is_told_wherever_figures_are(tmp_path):
    split = Split(
        dataset="llcm",
        split="test",
        source=[],
        identity=np.array([1, 1, 2, 2]),
        camera=np.array([1, 2, 1, 2]),
        modality=np.array([0, 1, 0, 1]),
        name=np.array(["a", "b", "c", "d"]),
    )
    protocols = protocols_of("llcm", split.modalities)
    results = make_results(
        dataset="llcm",
        split="test",
        task="person re-identification",
        selection="none",
        protocols=protocols,
        figures={"chance": evaluate_chance(split, protocols)},
    )
    note = "2 queries instead of 8680: this is not the complete test set"
    assert note in results["protocols"]["llcm_visible_to_infrared_plain"]["note"]
    assert f"warning: {note}" in format_table(results)
