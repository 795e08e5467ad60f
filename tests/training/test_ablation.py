"""A grid of runs: which there are, and what is carried out."""

import subprocess
import sys
from pathlib import Path

import pytest

from mbn_jax import InputError
from mbn_jax.training import ablation
from mbn_jax.training.ablation import make_runs, read_grid
from mbn_jax.training.config import as_json, default_config

from .test_loop import overrides

SCRIPT = Path(__file__).parents[2] / "experiments" / "ablate.py"
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


def test_values_reach_the_configuration():
    (run, *_) = runs_of(
        "data=synthetic_vireid/thermal",
        "backbone=resnet50_ibn_a",
        "loss=identity+circle",
        "sampler=agnostic",
        "affine=separate",
        "optimizer.learning_rate=0.5",
    )[3:]
    config = run.config
    assert config.data.dataset == "synthetic_vireid/thermal"
    assert (config.model.depth, config.model.variant) == (50, "resnet_ibn_a")
    assert (config.loss.identity, config.loss.circle, config.loss.wrt) == (1, 1, 0)
    assert config.batch.sampler == "agnostic"
    assert (config.model.norm, config.model.share_affine) == ("mbn", False)
    assert config.optimizer.learning_rate == 0.5
    assert (run.values["norm"], run.values["seed"], config.seed) == ("mbn", "0", 0)


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
        ("norm", "--grid=norm is not an axis"),
        ("sampler=balanced,", "is not an axis"),
        ("seed=4", "--grid=seed=4 is not an axis of its own"),
        ("model.dept=18", "'model.dept' is not known"),
        ("backbone=vgg16", "'vgg16' is not known"),
        ("loss=identity+magic", "'magic' is not known, expected some of identity"),
        ("model.width=wide", "'wide' is no value"),
        ("sampler=best", r"config\.batch\.sampler is 'best'"),
    ],
)
def test_a_mistake_in_the_grid_is_named(axis, message):
    with pytest.raises(InputError, match=message):
        runs_of(axis)


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory, data_dir):
    from .conftest import small_config

    workdir = tmp_path_factory.mktemp("ablation")
    config = small_config(data_dir)
    command = [
        *(sys.executable, SCRIPT, f"--workdir={workdir}", "--grid=seed=0"),
        "--num_parallel=2",
        *overrides(config),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return workdir, command, done


def test_runs_are_carried_out_and_shown(carried_out):
    workdir, _, done = carried_out
    assert "0 of 2 runs are there" in done.stderr
    assert "2/2" in done.stderr
    assert done.stdout.count("infrared → visible") == 1
    assert done.stdout.count("visible → infrared") == 1
    for name in ("ablation.csv", "ablation.md", "ablation.png"):
        assert (workdir / name).stat().st_size > 100
    lines = (workdir / "ablation.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2


def test_what_is_there_is_not_trained_again(carried_out):
    workdir, command, done = carried_out
    features = {p: p.stat().st_mtime_ns for p in workdir.glob("*/test_features.npz")}
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "2 of 2 runs are there" in again.stderr
    assert again.stdout == done.stdout
    assert features == {p: p.stat().st_mtime_ns for p in features}


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, data_dir):
    from .conftest import small_config

    config = small_config(data_dir)
    bad = config.copy_and_resolve_references()
    bad.batch.num_identities = 7
    grid = {"norm": ["bn"], "seed": ["0"]}
    (first,) = make_runs(bad, grid, tmp_path, cross=False)
    with pytest.raises(
        InputError, match=r"1 of 1 runs have failed: see .*logs/.*\.txt"
    ):
        ablation.carry_out([first], tmp_path, 1)
    assert "A batch of 7 identities cannot be drawn" in first.log.read_text()
