"""From a folder of images to metrics, for each real data set in miniature."""

import json
import shutil

import pytest

from mbn_jax.data.preparation import prepare_data
from mbn_jax.data.sources import protocols_of
from mbn_jax.evaluation import format_table
from mbn_jax.modalities import DEFAULT
from mbn_jax.training.loop import train
from mbn_jax.training.recipes import get_config
from mbn_jax.training.trained_network import Network, evaluate_workdir

from .data import trees

# The same numbers for all, so that the training step is compiled once.
TINY = {
    "num_devices": 1,
    "num_steps": 4,
    "eval_every": 2,
    "log_every": 1,
    "gap_batches": 0,
    "data.image_size": (32, 16),
    "batch.num_identities": 4,
    "batch.num_images": 2,
    "model.pretrained": "",
    "model.depth": 18,
    "model.width": 1 / 16,
    "model.non_local": (0, 1, 1, 0),
    "optimizer.warmup_steps": 1,
    "optimizer.decay_steps": (2, 3),
}
WRITE = {
    "sysu_mm01": lambda root: trees.write_sysu_mm01(root, train=6, val=2, test=3),
    "regdb": lambda root: trees.write_regdb(root, identities=16),
    "llcm": lambda root: trees.write_llcm(root, train=8, test=3, images=1),
}
PREPARED = {"sysu_mm01": "sysu_mm01", "regdb": "regdb/split1", "llcm": "llcm"}


@pytest.mark.parametrize("name", WRITE)
def test_a_tree_is_prepared_trained_on_evaluated_and_a_run_on_it_resumed(
    name, tmp_path, capsys
):
    tree, data_dir = WRITE[name](tmp_path / "tree"), tmp_path / "data"
    dataset = PREPARED[name]
    prepare_data(dataset, data_dir, folders={"manual_dir": [tree]})
    config = get_config(f"agw:{dataset}")
    config.update_from_flattened_dict({**TINY, "data.data_dir": str(data_dir)})

    whole = tmp_path / "whole"
    table = format_table(train(config, whole))
    assert "Trained on all 8 training identities, without validation" in table
    results = json.loads((whole / "results.json").read_text())
    protocols = protocols_of(dataset, DEFAULT)
    assert list(results["protocols"]) == [protocol.name for protocol in protocols]
    for protocol in protocols:
        metrics = results["figures"]["last"][protocol.name]
        assert len(metrics["trials"]) == (1 if name == "regdb" else 10)
        assert 0 < metrics["mAP"] <= 1
        assert (whole / "report" / f"{protocol.name}.png").exists()
    assert "best" not in results["figures"]

    # As if it had been killed after the checkpoint of step 2.
    interrupted = tmp_path / "interrupted"
    shutil.copytree(whole, interrupted)
    shutil.rmtree(interrupted / "checkpoints" / "4")
    shutil.rmtree(interrupted / "report")
    (interrupted / "results.json").unlink()
    capsys.readouterr()
    train(config, interrupted)
    assert "resumed after step 2" in capsys.readouterr().err
    assert json.loads((interrupted / "results.json").read_text()) == results

    again = evaluate_workdir(str(whole), Network("last", False, None), {}, "cosine")
    assert again["protocol"] == protocols[0].name
    last = results["figures"]["last"][protocols[0].name]
    for key in ("rank1", "rank5", "mAP", "mINP"):
        assert again[key] == pytest.approx(last[key], abs=1e-6)
