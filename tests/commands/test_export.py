"""The commands from a trained run to other places, end to end."""

import cv2
import numpy as np
import pytest

import mbn_jax

from .in_process import fail, succeed


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
    with np.load(tmp_path / "f.npz") as archive:
        np.testing.assert_allclose(archive["features"], expected, atol=1e-3)
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
    for message, *command in (
        ("give --modality to", "export"),
        ("'.' cannot be written as", "export", "--modality=visible", "--output=."),
        (
            "no modality 'thermal'; expected one of visible, infrared",
            *("export", "--modality=thermal"),
        ),
        (
            "is given twice",
            *("adapt", f"--visible={crops}", f"--folder=visible={crops / 'visible'}"),
            f"--output={tmp_path}",
        ),
        (
            "is a work directory",
            *("adapt", f"--visible={crops}", f"--output={workdir}"),
        ),
        ("name of a folder is empty", "adapt", f"--visible={crops}", "--output="),
        (
            "There is no network at",
            *("adapt", f"--visible={crops}", f"--output={tmp_path}"),
            f"--workdir={tmp_path / 'missing'}",
        ),
    ):
        name, *given = command
        assert message in fail(name, f"--workdir={workdir}", *given)
    assert list(tmp_path.iterdir()) == []
