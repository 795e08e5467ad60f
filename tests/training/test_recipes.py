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
from mbn_jax.training.state import make_model

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "experiments" / "configs" / "study.py"
PARTS = ("patches", "random", "synthetic")
OF_DATASETS = ("agw", "caj")
DATASETS = [
    "sysu_mm01",
    "regdb/split7",
    "llcm",
    "synthetic_vireid/nir",
    "synthetic_vireid/thermal",
]


def study_config(part):
    return runpy.run_path(str(STUDY))["get_config"](part)


@pytest.mark.parametrize("part", PARTS)
def test_the_grid_of_a_part_of_the_study_is_valid(part):
    lines = (ROOT / "docs" / "study" / f"{part}.flags").read_text().splitlines()
    assert f"--config=experiments/configs/study.py:{part}" in lines
    axes = [line.removeprefix("--grid=") for line in lines if "--grid" in line]
    grid = {"norm": ["bn", "mbn"]} | read_grid(axes)
    runs = make_runs(study_config(part), grid, Path("runs"), cross="--cross" in lines)
    # BN is trained once where only the affine of MBN differs.
    expected = {"patches": 12 * 5, "random": 4 * 8, "synthetic": 8 * 8}
    assert len({run.workdir for run in runs}) == expected[part]


def test_another_part_of_the_study_is_an_error():
    with pytest.raises(InputError, match="no setting 'all', expected patches, random"):
        study_config("all")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_is_valid_and_on_its_page(name):
    check(recipes.get_config(name))
    assert re.search(rf"`{name}\b", (ROOT / "docs" / "recipes.md").read_text())


def test_a_recipe_of_one_data_set_takes_no_other():
    with pytest.raises(InputError, match=r"quick takes no data set \('llcm'\)"):
        recipes.get_config("quick:llcm")


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", OF_DATASETS)
def test_a_recipe_is_valid_for_every_data_set(name, dataset):
    config = recipes.get_config(f"{name}:{dataset}")
    check(config)
    assert config.data.dataset == dataset
    assert config.model.norm == "mbn"
    # Millions of steps are easily miscounted: the page says what the recipe does.
    rows = (ROOT / "docs" / "recipes.md").read_text().splitlines()
    [row] = [r for r in rows if re.match(rf"\| {name.upper()} \| \d+ \|", r)]
    assert row.split(" | ")[2 + DATASETS.index(dataset)].strip(" |") == (
        f"{config.num_steps:,}"
    )


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
    model = make_model(recipes.get_config(name), 395)
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
    assert recipes.get_config(str(path)).to_dict() == config.to_dict()


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
        recipes.get_config(str(path))
