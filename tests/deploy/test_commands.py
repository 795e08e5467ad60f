"""The commands from a trained run to other places, end to end."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import mbn_jax

ROOT = Path(__file__).parents[2]


def run(script, *flags):
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / f"{script}.py", *map(str, flags)],
        capture_output=True,
        text=True,
        check=False,
    )


def succeed(script, *flags):
    done = run(script, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fail(script, *flags):
    done = run(script, *flags)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    root = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    for name in ("visible", "infrared"):
        (root / name).mkdir()
        for index in range(3):
            image = rng.integers(0, 256, (40, 20, 3), np.uint8)
            cv2.imwrite(str(root / name / f"{index}.png"), image)
    return root


def features(path):
    with np.load(path) as archive:
        return archive["features"]


def test_adapted_shared_and_exported_networks_are_embedded_with_alike(
    finished, crops, tmp_path
):
    workdir, _ = finished
    shared = tmp_path / "adapted"
    said = succeed(
        "adapt",
        f"--workdir={workdir}",
        f"--visible={crops / 'visible'}",
        f"--folder=infrared={crops / 'infrared'}",
        f"--output={shared}",
    )
    assert str(shared) in said
    model, variables = mbn_jax.load(shared)
    trained = mbn_jax.load(workdir)[1]
    assert np.any(
        variables["batch_stats"]["neck"]["mean"]
        != trained["batch_stats"]["neck"]["mean"]
    )

    said = succeed("export", f"--workdir={shared}", "--modality=infrared")
    assert f"{shared / 'infrared.zip'}: for infrared images of 32 × 16" in said
    assert "largest difference" in said

    found = tmp_path / "found.png"
    succeed(
        "embed",
        f"--model={shared / 'infrared.zip'}",
        f"--images={crops / 'infrared'}",
        "--modality=infrared",
        f"--output={tmp_path / 'f.npz'}",
        f"--gallery={crops / 'visible'}",
        f"--gallery_model={shared}",
        f"--ranked_list={found}",
    )
    images = np.stack(
        [
            cv2.imread(str(path))[..., ::-1]
            for path in sorted((crops / "infrared").iterdir())
        ]
    )
    expected = mbn_jax.embed(model, variables, images, 1)
    np.testing.assert_allclose(features(tmp_path / "f.npz"), expected, atol=1e-3)
    assert cv2.imread(str(found)).shape[1] > 500


def test_a_run_is_shared_as_two_files(finished, tmp_path):
    workdir, _ = finished
    shared = tmp_path / "shared"
    succeed("export", f"--workdir={workdir}", "--format=weights", f"--output={shared}")
    assert sorted(path.name for path in shared.iterdir()) == [
        "model.json",
        "model.safetensors",
    ]
    assert mbn_jax.load(shared)[0] == mbn_jax.load(workdir)[0]


def test_what_does_not_go_together_is_said(finished, crops, tmp_path):
    workdir, _ = finished
    assert "give --modality to" in fail("export", f"--workdir={workdir}")
    assert "'.' cannot be written as a file" in fail(
        "export", f"--workdir={workdir}", "--modality=visible", "--output=."
    )
    assert "no modality 'thermal'; expected one of visible, infrared" in fail(
        "export", f"--workdir={workdir}", "--modality=thermal"
    )
    assert "is given twice" in fail(
        "adapt",
        f"--workdir={workdir}",
        f"--visible={crops}",
        f"--folder=visible={crops / 'visible'}",
        f"--output={tmp_path}",
    )
    assert "is a work directory" in fail(
        "adapt", f"--workdir={workdir}", f"--visible={crops}", f"--output={workdir}"
    )
    assert "name of a folder is empty" in fail(
        "adapt", f"--workdir={workdir}", f"--visible={crops}", "--output="
    )
    nowhere = tmp_path / "missing"
    assert "There is no network at" in fail(
        "adapt", f"--workdir={nowhere}", f"--visible={crops}", f"--output={tmp_path}"
    )
    assert list(tmp_path.iterdir()) == []
