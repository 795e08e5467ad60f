"""A person's own images, from folders to ranked lists, by the commands of the page."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from .commands import in_process
from .data import own_images

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own-data.md").read_text()
README = (ROOT / "README.md").read_text()
# The network of the page would take minutes here.
TINY = (
    "--config.num_steps=3 --config.model.width=0.0625 --config.data.image_size=(32,16)"
    " --config.batch.num_identities=2 --config.batch.num_images=2"
    " --config.gap_batches=2 --config.log_every=1 --config.num_devices=1"
)


def run(command):
    """Runs a command of the page, as a person types it in a clone."""
    program, option, package, name, *arguments = shlex.split(command)
    assert (program, option, package) == ("python", "-m", "mbn_jax")
    if name == "train":
        arguments += TINY.split()
    return in_process.run(name, *arguments)


def run_well(command):
    done = run(command)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done


def blocks(language, page=PAGE):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands_of(block):
    joined = block.replace("\\\n", "")
    return [" ".join(command.split()) for command in joined.strip().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clone")


def test_the_page_leads_from_folders_to_ranked_lists(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (making,) = blocks("python")
    exec(making, {})
    commands = [command for block in blocks("sh") for command in commands_of(block)]
    assert [command.split()[3] for command in commands] == [
        "manifest",
        "prepare",
        "train",
        "evaluate",
        "evaluate",
        "gap",
        "embed",
    ]
    (section,) = re.findall(r"## Your own cameras\n(.*?)\n## ", README, re.DOTALL)
    (three,) = blocks("sh", section)
    assert commands_of(three) == commands[:3]
    outputs = [run_well(command) for command in commands]

    with open("photos/manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["modality"] for row in rows} == {"visible", "infrared"}
    assert {row["camera"] for row in rows} == {f"cam{c}" for c in range(1, 7)}
    assert len(rows) == len(list(Path("photos").rglob("*.jpg")))
    assert len({row["identity"] for row in rows}) == 60
    results = json.loads(Path("runs/mine/results.json").read_text())
    assert list(results["protocols"]) == ["infrared_to_visible", "visible_to_infrared"]
    of_last = results["figures"]["last"]["visible_to_infrared"]
    assert f"{of_last['num_queries']} queries" in outputs[4].stdout
    for path in ("gaps/gap.png", "runs/mine/report/index.html", "found.png"):
        assert Path(path).stat().st_size > 1000
    with np.load("features.npz") as features:
        assert len(features["name"]) == len(
            list(Path("photos/infrared").rglob("*.jpg"))
        )


def prepare():
    """Prepares the data set again, as if nothing were there."""
    shutil.rmtree("data/mine")
    manifest = "--dataset=mine --manifest=photos/manifest.csv"
    run_well(f"python -m mbn_jax prepare {manifest}")


def test_run_is_not_resumed_on_other_data_and_evaluation_says_so(folder, monkeypatch):
    """Goes on with the run of the page."""
    monkeypatch.chdir(folder)
    train = "python -m mbn_jax train --workdir=runs/mine --config.data.dataset=mine"
    evaluate = "python -m mbn_jax evaluate --workdir=runs/mine"
    assert "other data" not in run_well(evaluate).stderr
    prepare()  # the same images and rows: the same data
    assert "other data" not in run_well(evaluate).stderr

    image = next(Path("photos/visible").rglob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")  # decodes to the same pixels
    prepare()
    told = run_well(evaluate)
    assert "was trained on other data of the name mine" in told.stderr
    refused = run(train)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: runs/mine was trained on")
    assert "choose another --workdir" in refused.stderr


def test_three_modalities_lead_to_six_searches(tmp_path, monkeypatch):
    """One identity lacks a modality, and the name of one is not that of a folder."""
    modalities = {"visible": "visible", "nir/940": "nir", "thermal": "thermal"}
    monkeypatch.chdir(tmp_path)
    own_images.write_folders(tmp_path / "photos", modalities=tuple(modalities.values()))
    for image in (tmp_path / "photos/nir/person 5").iterdir():
        image.unlink()
    flags = " ".join(
        f"--folder={m}=photos/{folder}" for m, folder in modalities.items()
    )
    run_well(
        f"python -m mbn_jax manifest {flags} --output=photos/manifest.csv --seed=1"
    )
    prepared = run_well(
        "python -m mbn_jax prepare --dataset=mine --manifest=photos/manifest.csv"
    )
    assert (
        "train: 22 images of 4 identities, 8 visible, 6 nir/940 and" in prepared.stderr
    )
    trained = run_well(
        "python -m mbn_jax train --workdir=runs/mine --config.data.dataset=mine"
        " --config.model.stem=separate --config.loss.hetero_center=0.1"
    )
    assert "1 identities lack a modality" in trained.stderr
    results = json.loads((tmp_path / "runs/mine/results.json").read_text())
    assert list(results["protocols"]) == [
        "thermal_to_visible",
        "thermal_to_nir/940",
        "nir/940_to_visible",
        "nir/940_to_thermal",
        "visible_to_nir/940",
        "visible_to_thermal",
    ]
    page = (tmp_path / "runs/mine/report/index.html").read_text()
    for words in ("thermal → visible", "nir/940 → thermal", "id person "):
        assert words in page
    run_well(
        "python -m mbn_jax evaluate --workdir=runs/mine --direction=nir/940_to_thermal"
    )
    assert (tmp_path / "runs/mine/report/nir%2F940_to_visible.png").is_file()
    run_well("python -m mbn_jax gap runs/mine --num_batches=2")
    run_well(
        "python -m mbn_jax embed --workdir=runs/mine --images=photos/nir"
        " --modality=nir/940 --output=f.npz --gallery=photos/thermal"
        " --gallery_modality=thermal --ranked_list=found.png"
    )
    with np.load(tmp_path / "f.npz") as features:
        assert features["features"].shape[0] == 10
