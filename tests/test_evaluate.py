"""The script: what it prints and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .data import trees

ROOT = Path(__file__).parents[1]


def run(*flags):
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / "evaluate.py", *map(str, flags)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """SYSU-MM01 in miniature, with official galleries and features of its test set."""
    root = trees.write_sysu_mm01(
        tmp_path_factory.mktemp("tree") / "s", train=1, val=1, test=4, images=3
    )
    trees.write_rand_perm_cam(root)
    identities = trees.sysu_mm01_identities(train=1, val=1, test=4)["test"]
    names = [
        path.relative_to(root).as_posix()
        for path in sorted(root.glob("cam*/*/*.jpg"))
        if int(path.parent.name) in identities
    ]
    camera = np.array([int(name[3]) for name in names])
    np.savez(
        root / "f.npz",
        features=np.random.default_rng(0).normal(size=(len(names), 8)),
        identity=np.array([int(name.split("/")[1]) for name in names]),
        camera=camera,
        modality=np.isin(camera, (3, 6)).astype(int),
        name=names,
    )
    return root


def test_features_of_any_framework_as_json(tree):
    done = run(
        f"--features={tree / 'f.npz'}",
        "--protocol=sysu_mm01",
        "--search=indoor",
        "--shots=2",
        "--gallery=official",
        f"--rand_perm_cam={tree / 'exp' / 'rand_perm_cam.mat'}",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    figures = {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP"}
    counts = {"num_queries", "num_valid_queries", "gallery_size"}
    assert figures | counts | {"trials", "protocol"} <= result.keys()
    assert all(0 <= result[key] <= 1 for key in figures)
    assert len(result["trials"]) == 10
    assert all(figures | counts <= trial.keys() for trial in result["trials"])
    assert result["protocol"] == "sysu_mm01_indoor_2shot_official"
    # Four people, two infrared cameras, three images; two visible ones, two images.
    assert result["num_queries"] == 4 * 2 * 3
    assert result["gallery_size"] == 4 * 2 * 2
    assert "16 gallery images instead of 224" in done.stderr


def test_the_table_has_means_deviations_and_the_rules(tree):
    done = run(f"--features={tree / 'f.npz'}", "--protocol=sysu_mm01")
    assert done.returncode == 0, done.stderr
    assert "24 of 24 queries scored, 16 gallery images" in done.stdout
    assert "mean ± standard deviation over 10 trials" in done.stdout
    for title in ("rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mINP"):
        assert title in done.stdout
    assert "a query of camera 3 skips camera 2" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "either --workdir or --features"),
        (["--features=f.npz"], "--features needs --protocol"),
        (["--features=f.npz", "--flip_average"], "--flip_average does not go with"),
        (["--workdir=nowhere"], "nowhere is not a work directory"),
        (
            ["--workdir=a", "--save_features=f.npz", "--json"],
            "--json does not go with --save_features",
        ),
    ],
)
def test_a_mistake_is_one_sentence(flags, message):
    done = run(*flags)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
