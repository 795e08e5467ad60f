"""A person's own images, from folders to ranked lists, by the commands of the page."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mbn_jax.data.preparation import prepare_data
from mbn_jax.errors import InputError
from mbn_jax.training.config import read_config
from mbn_jax.training.loop import train
from mbn_jax.training.trained_network import Network, evaluate_workdir

from .data import own_images

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own-data.md").read_text()
README = (ROOT / "README.md").read_text()
# The network of the page would take minutes here.
TINY = (
    "--config.num_steps=3 --config.model.width=0.0625 --config.data.image_size=(32,16)"
    " --config.batch.num_identities=2 --config.batch.num_images=2"
    " --config.gap_batches=2 --config.log_every=1"
)


def run(command, folder):
    """Runs a command of the page in a folder, as a person types it in a clone."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    if arguments[:3] == ["-m", "mbn_jax", "train"]:
        arguments += TINY.split()
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def run_well(command, folder):
    done = run(command, folder)
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
    outputs = [run_well(command, folder) for command in commands]

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
    prepare_data("mine", "data", manifest="photos/manifest.csv")


def evaluate(workdir, **options):
    """What `python -m mbn_jax evaluate` computes."""
    return evaluate_workdir(workdir, Network("last", False, None), options, "cosine")


def test_run_is_not_resumed_on_other_data_and_evaluation_says_so(
    folder, monkeypatch, capsys
):
    """Goes on with the run of the page."""
    monkeypatch.chdir(folder)
    evaluate("runs/mine")
    assert "other data" not in capsys.readouterr().err
    prepare()  # the same images and rows: the same data
    evaluate("runs/mine")
    assert "other data" not in capsys.readouterr().err

    image = next(Path("photos/visible").rglob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")  # decodes to the same pixels
    prepare()
    evaluate("runs/mine")
    assert "was trained on other data of the name mine" in capsys.readouterr().err
    with pytest.raises(
        InputError, match=r"^runs/mine was trained on .*choose another --workdir"
    ):
        train(read_config("runs/mine"), Path("runs/mine"))


def test_three_modalities_lead_to_six_searches(tmp_path, monkeypatch, capsys):
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
        f"python -m mbn_jax manifest {flags} --output=photos/manifest.csv --seed=1",
        tmp_path,
    )
    prepare_data("mine", "data", manifest="photos/manifest.csv")
    told = capsys.readouterr().err
    assert "train: 22 images of 4 identities, 8 visible, 6 nir/940 and" in told
    trained = run_well(
        "python -m mbn_jax train --workdir=runs/mine --config.data.dataset=mine"
        " --config.model.stem=separate --config.loss.hetero_center=0.1",
        tmp_path,
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
    evaluated = evaluate("runs/mine", direction="nir/940_to_thermal")
    assert evaluated["protocol"] == "nir/940_to_thermal"
    assert (tmp_path / "runs/mine/report/nir%2F940_to_visible.png").is_file()
    run_well("python -m mbn_jax gap runs/mine --num_batches=2", tmp_path)
    run_well(
        "python -m mbn_jax embed --workdir=runs/mine --images=photos/nir"
        " --modality=nir/940 --output=f.npz --gallery=photos/thermal"
        " --gallery_modality=thermal --ranked_list=found.png",
        tmp_path,
    )
    with np.load(tmp_path / "f.npz") as features:
        assert features["features"].shape[0] == 10
