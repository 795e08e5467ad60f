"""What a run of training leaves to look at."""

import json
import shutil

import pytest

from mbn_jax.analysis.compare import write_comparison
from mbn_jax.data.dataset import load_split
from mbn_jax.errors import InputError


def test_the_report_shows_similarities_and_a_map(finished, data_dir):
    workdir, results = finished
    page = (workdir / "report" / "index.html").read_text()
    test = load_split(results["dataset"], "test", str(data_dir))
    across = (test.modality[:, None] < test.modality) & (
        test.identity[:, None] == test.identity
    )
    assert f"one identity: {across.sum():,} pairs" in page
    assert "Map of the embedding" in page


def test_without_batches_to_measure_them_on_there_are_no_gaps(finished):
    workdir, _ = finished
    assert not (workdir / "gaps.json").exists()
    assert "distribution gaps" not in (workdir / "report" / "index.html").read_text()


def test_a_run_can_be_compared_with_another(finished, tmp_path):
    workdir, results = finished
    other = tmp_path / "other"
    shutil.copytree(workdir, other)
    config = json.loads((other / "config.json").read_text())
    config["model"]["norm"] = "bn"
    (other / "config.json").write_text(json.dumps(config))
    path = tmp_path / "compare.html"
    write_comparison([workdir, other], path)
    page = path.read_text()
    assert results["dataset"] in page
    assert "model.norm" in page
    assert "other (6)" in page


def test_a_run_that_has_not_ended_cannot_be_compared(finished, tmp_path):
    workdir, _ = finished
    other = tmp_path / "other"
    shutil.copytree(workdir, other)
    (other / "results.json").unlink()
    with pytest.raises(InputError, match="finished run"):
        write_comparison([workdir, other], tmp_path / "compare.html")
