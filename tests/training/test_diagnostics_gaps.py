"""The gaps of a run, on batches drawn as it drew them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from mbn_jax import InputError
from mbn_jax.analysis.gap import SIDES
from mbn_jax.data.dataset import load_split
from mbn_jax.files import read_json, write_json
from mbn_jax.training.diagnostics import draw_batches, name_networks, workdir_gaps

from ..commands import in_process
from .conftest import small_config

BOTH = "visible-infrared"


@pytest.fixture(scope="module")
def measured(finished):
    return workdir_gaps(finished[0], 3)


def test_an_mbn_run_has_no_gap_after_a_layer_by_the_statistics_of_the_batch(measured):
    after = [gap for gap in measured["training"] if gap.side == "after"]
    assert [gap.layer for gap in after][:: len(after) - 1] == ["backbone/norm1", "neck"]
    # But for the epsilon of a layer whose channels hardly vary.
    assert max(gap.intra[BOTH] for gap in after) < 0.1
    assert after[0].intra[BOTH] < 1e-3
    before = [gap for gap in measured["training"] if gap.side == "before"]
    assert before[0].intra[BOTH] > 0.05


def test_running_statistics_close_no_gap_from_batch_to_batch(measured):
    first = measured["evaluation"][:2]
    assert [gap.side for gap in first] == list(SIDES)
    before, after = (gap.inter["visible"] for gap in first)
    assert after == pytest.approx(before, rel=0.2)
    for gap in measured["evaluation"]:
        values = [*gap.intra.values(), *gap.lasting.values(), *gap.inter.values()]
        assert len(values) == 4
        assert np.isfinite(values).all()


def copies(finished, tmp_path, **changes):
    """Folders with nothing but a configuration, which differ from the run's."""
    config = read_json(finished[0] / "config.json")
    for name, change in changes.items():
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", change(config))
    return [tmp_path / name for name in changes]


def with_norm(norm):
    return lambda config: {**config, "model": {**config["model"], "norm": norm}}


def test_runs_are_called_by_what_tells_them_apart_but_not_by_their_seed(
    finished, tmp_path
):
    a, b, c = copies(
        finished,
        tmp_path,
        a=lambda config: config,
        b=lambda config: {**config, "seed": 7, "data": {**config["data"]}},
        c=with_norm("bn"),
    )
    assert name_networks([a, c, b]) == ["norm=mbn", "norm=bn", "norm=mbn"]
    assert name_networks([a, b]) == ["a", "a"]


def test_more_networks_than_colors_are_refused(finished, tmp_path):
    changes = {
        f"run{i}": lambda config, i=i: {**config, "num_steps": 6 + i} for i in range(5)
    }
    with pytest.raises(InputError, match="5 networks, but one figure shows up to 4"):
        name_networks(copies(finished, tmp_path, **changes))


def test_a_run_that_is_given_twice_is_no_second_seed(finished):
    with pytest.raises(InputError, match="given twice"):
        name_networks([finished[0], finished[0]])


def test_each_part_of_an_accumulated_batch_is_a_batch(finished, data_dir):
    config = small_config(data_dir)
    split = load_split(config.data.dataset, "train", str(data_dir))
    size = SimpleNamespace(image_size=(32, 16))
    whole = list(draw_batches(config, size, split, 2, augmented=True))
    config.batch.accumulation_steps = 2
    parts = list(draw_batches(config, size, split, 2, augmented=True))
    assert [len(modality) for _, modality in whole] == [16, 16]
    assert [len(modality) for _, modality in parts] == [8] * 4
    np.testing.assert_array_equal(
        np.concatenate([images for images, _ in parts]),
        np.concatenate([images for images, _ in whole]),
    )
    assert len(list(draw_batches(config, size, split, 2, augmented=False))) == 2


def with_modalities(split, modality, names):
    """The images of a split, as if they were of other modalities."""
    return dataclasses.replace(split, modality=modality, modalities=names)


def test_batches_of_three_modalities_hold_as_many_images_of_each(data_dir):
    config = small_config(data_dir)
    config.batch.num_identities = 2
    split = load_split(config.data.dataset, "train", str(data_dir))
    third = split.modality.copy()
    for identity in np.unique(split.identity):
        rows = np.flatnonzero((split.identity == identity) & (split.modality == 1))
        third[rows[::2]] = 2
    split = with_modalities(split, third, ("visible", "nir", "thermal"))
    size = SimpleNamespace(image_size=(32, 16))
    for augmented in (True, False):
        for _, modality in draw_batches(config, size, split, 2, augmented=augmented):
            assert sorted(modality) == [0] * 4 + [1] * 4 + [2] * 4


def test_a_modality_that_a_split_does_not_have_is_in_no_batch(data_dir):
    config = small_config(data_dir)
    split = load_split(config.data.dataset, "train", str(data_dir))
    names = ("visible", "nir", "thermal")
    split = with_modalities(split, 2 * split.modality, names)
    size = SimpleNamespace(image_size=(32, 16))
    for _, modality in draw_batches(config, size, split, 2, augmented=False):
        assert sorted(modality) == [0] * 8 + [2] * 8


def test_the_command_writes_a_figure_a_table_and_all_figures(finished, tmp_path):
    done = in_process.run(
        "gap", "--num_batches=2", f"--output={tmp_path / 'out'}", finished[0]
    )
    assert done.returncode == 0, done.stderr
    assert "| training | after | 0." in done.stdout
    assert (tmp_path / "out" / "gap.png").exists()
    lines = (tmp_path / "out" / "gap.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 21


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no work directory"),
        (("--output=/dev/null/gaps", "run"), "/dev/null is not a folder"),
        (("nowhere",), "nowhere"),
        (("--batches=3",), "batches"),
        ((f"--num_batches={10**20}", "run"), "--num_batches"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, says):
    done = in_process.run("gap", *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
