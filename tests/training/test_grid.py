"""A grid: which runs there are, and with which configurations."""

from pathlib import Path

import pytest

from mbn_jax import InputError
from mbn_jax.training.config import as_json, default_config
from mbn_jax.training.grid import make_runs, read_grid

ALWAYS = ["norm=bn,mbn", "seed=0,1,2"]


def runs_of(*axes, cross=False):
    grid = read_grid([*ALWAYS, *axes])
    return make_runs(default_config(), grid, Path("runs"), cross=cross)


def test_one_axis_at_a_time_leaves_its_first_value():
    runs = runs_of("sampler=balanced,natural", "backbone=resnet18,se_resnet18")
    settings = {(r.values["sampler"], r.values["backbone"]) for r in runs}
    assert settings == {
        ("balanced", "resnet18"),
        ("natural", "resnet18"),
        ("balanced", "se_resnet18"),
    }
    assert len(runs) == len({run.workdir for run in runs}) == 3 * 2 * 3


def test_or_all_are_combined():
    runs = runs_of("sampler=balanced,natural", "loss=identity,identity+wrt", cross=True)
    assert len(runs) == 4 * 2 * 3


def test_a_seed_of_all_settings_comes_before_the_next_seed():
    runs = runs_of("sampler=balanced,natural")
    assert [run.config.seed for run in runs] == [0] * 4 + [1] * 4 + [2] * 4
    assert [run.values["sampler"] for run in runs[::2]] == ["balanced", "natural"] * 3


def test_values_reach_the_configuration():
    (run, *_) = runs_of(
        "data=synthetic_vireid/thermal",
        "backbone=resnet50_ibn_a",
        "loss=identity+circle",
        "sampler=agnostic",
        "affine=separate",
        "optimizer.learning_rate=0.5",
    )[1:]
    config = run.config
    assert config.data.dataset == "synthetic_vireid/thermal"
    assert (config.model.depth, config.model.variant) == (50, "resnet_ibn_a")
    assert (config.loss.identity, config.loss.circle, config.loss.wrt) == (1, 1, 0)
    assert config.batch.sampler == "agnostic"
    assert (config.model.norm, config.model.share_affine) == ("mbn", False)
    assert config.optimizer.learning_rate == 0.5
    assert (run.values["norm"], run.values["seed"], config.seed) == ("mbn", "0", 0)


def test_a_tuple_stands_in_brackets():
    runs = runs_of('model.mbn_at=["neck"],["stem","stage1"],[]')
    places = {run.config.model.mbn_at for run in runs if run.values["norm"] == "mbn"}
    assert places == {("neck",), ("stem", "stage1"), ()}
    assert len({run.workdir for run in runs}) == 3 + 3 * 3


def test_separate_affines_share_the_runs_of_batch_norm():
    runs = runs_of("affine=shared,separate")
    assert len(runs) == 12
    assert len({run.workdir for run in runs}) == 9
    for run in runs:
        same = [r for r in runs if r.workdir == run.workdir]
        assert len({str(as_json(r.config)) for r in same}) == 1


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("norm", "--grid=norm repeats an axis"),
        ("sampler=balanced,", "lacks one of them"),
        ("seed=4", "--grid=seed=4 repeats an axis"),
        ("model.dept=18", "did you mean 'model.depth'"),
        ("backbone=vgg16", "'vgg16' is not known"),
        ("loss=identity+magic", "'magic' is not known, expected some of identity"),
        ("model.width=wide", "'wide' is not a value"),
        ("sampler=best", r"config\.batch\.sampler is 'best'"),
        ("sampler=natural,natural", "repeats an axis or a value"),
        ("data=regdb/split11", "There is no data set 'regdb/split11'; the known ones"),
        ("seeds=1", "did you mean 'seed'"),
        ("affine=share", "'share' is not known, expected shared, separate"),
        ("model.depth=1.5", r"--grid=model\.depth=1\.5: '1\.5' is not a value"),
        ("model.neck_bias=1", r"--grid=model\.neck_bias=1: '1' is not a value"),
    ],
)
def test_a_mistake_in_the_grid_is_named(axis, message):
    with pytest.raises(InputError, match=message):
        runs_of(axis)
