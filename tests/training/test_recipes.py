"""The configuration files: each is valid, and says in its docstring how it is run."""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from mbn_jax import InputError
from mbn_jax.training import recipes
from mbn_jax.training.config import as_json, check, default_config
from mbn_jax.training.grid import make_runs, read_grid
from mbn_jax.training.step import make_model

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
SINGLE = ("quick", "quick_thermal")
OF_DATASETS = ("agw_bn", "agw_mbn", "caj_mbn")
STUDY = ("patches", "random", "synthetic")
STUDY_FLAGS = CONFIGS.parents[1] / "docs" / "study"
DATASETS = [
    "sysu_mm01",
    "regdb/split7",
    "llcm",
    "synthetic_vireid/nir",
    "synthetic_vireid/thermal",
]


def load(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))


def test_every_file_is_known_here():
    names = {path.stem for path in CONFIGS.glob("*.py")}
    assert names == {*SINGLE, *OF_DATASETS, "saved", "study"}


@pytest.mark.parametrize("part", STUDY)
def test_the_grid_of_a_part_of_the_study_is_valid(part):
    lines = (STUDY_FLAGS / f"{part}.flags").read_text().splitlines()
    assert f"--config=experiments/configs/study.py:{part}" in lines
    axes = [line.removeprefix("--grid=") for line in lines if "--grid" in line]
    grid = {"norm": ["bn", "mbn"]} | read_grid(axes)
    config = load("study")["get_config"](part)
    runs = make_runs(config, grid, Path("runs"), cross="--cross" in lines)
    # BN is trained once where only the affine of MBN differs.
    expected = {"patches": 12 * 5, "random": 4 * 8, "synthetic": 8 * 8}
    assert len({run.workdir for run in runs}) == expected[part]


def test_another_part_of_the_study_is_an_error():
    with pytest.raises(InputError, match="no setting 'all', expected patches, random"):
        load("study")["get_config"]("all")


@pytest.mark.parametrize("name", SINGLE)
def test_a_quick_recipe_is_valid(name):
    module = load(name)
    check(module["get_config"]())
    assert "python experiments/train.py --workdir=runs/" in module["__doc__"]


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", OF_DATASETS)
def test_a_recipe_is_valid_for_every_data_set(name, dataset):
    module = load(name)
    config = module["get_config"](dataset)
    check(config)
    assert config.data.dataset == dataset
    assert config.model.norm == ("bn" if name == "agw_bn" else "mbn")
    text = module["__doc__"]
    assert f"--config=experiments/configs/{name}.py:sysu_mm01" in text
    # Millions of steps are easily miscounted: the text says what the file does.
    steps = f"{config.num_steps:,}"
    assert steps in text
    assert "H100" in text
    assert "47.50" in text or "69.88" in text


def test_the_two_agw_recipes_differ_in_their_norm_alone():
    bn, mbn = (load(f"agw_{norm}")["get_config"]("llcm") for norm in ("bn", "mbn"))
    bn.model.norm = "mbn"
    assert bn.to_dict() == mbn.to_dict()


@pytest.mark.parametrize("dataset", ["regdb", "regdb/split11", "synthetic_vireid"])
def test_a_data_set_without_a_recipe_is_named(dataset):
    with pytest.raises(InputError, match=f"no recipe for the data set '{dataset}'"):
        recipes.agw(dataset, "mbn")


def test_an_epoch_of_your_own_data_is_counted_in_the_prepared_copy(monkeypatch):
    counts = {"train": {"visible": 320, "nir": 700, "thermal": 640}}
    monkeypatch.setattr(
        recipes, "info", lambda dataset, data_dir: SimpleNamespace(counts=counts)
    )
    config = recipes.agw("my_cameras", "mbn", data_dir="elsewhere")
    assert config.num_steps == 81 * (700 // 32)
    assert config.data.data_dir == "elsewhere"


def test_your_own_data_that_are_not_prepared_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no data set 'market1501' .*--manifest="):
        recipes.agw("market1501", "mbn", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", OF_DATASETS)
def test_the_network_of_a_recipe_can_be_made(name):
    config = load(name)["get_config"]()
    model = make_model(config, 395)
    images = jax.ShapeDtypeStruct((2, *model.image_size, 3), "float32")
    modality = jax.ShapeDtypeStruct((2,), "int32")
    variables = jax.eval_shape(
        lambda *batch: model.init(jax.random.key(0), *batch, train=True),
        images,
        modality,
    )
    backbone = variables["params"]["backbone"]
    non_local = sorted(part for part in backbone if "non_local" in part)
    assert len(non_local) == 5
    assert {re.sub("_.*", "", part) for part in non_local} == {"stage2", "stage3"}


def test_a_saved_configuration_is_read_again(tmp_path):
    config = default_config()
    config.model.mbn_at, config.model.non_local = ("neck",), (0, 1, 0, 0)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(as_json(config)))
    assert load("saved")["get_config"](str(path)).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": {**default_config().model.to_dict(), "dropout": 1}},
            "does not know",
        ),
        ({"model": {}}, "written by an older version"),
    ],
)
def test_a_configuration_of_another_version_is_named(change, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**as_json(default_config()), **change}))
    with pytest.raises(InputError, match=message):
        load("saved")["get_config"](str(path))
