"""The command `embed`, with a network that is quick to understand."""

from typing import NamedTuple

import cv2
import jax
import numpy as np
import pytest

import mbn_jax
from mbn_jax.pixels import normalize

from ..deploy.folders import MeanColor, exported_model, folder_of_three
from .in_process import run


class Output(NamedTuple):
    embedding: jax.Array


class Model:
    """The feature of an image is its mean color."""

    image_size = (16, 8)
    modalities = ("visible", "infrared")
    sixteen_bits = ("auto", "0,4095")

    def apply(self, variables, images, modality, train):
        return Output(images.mean(axis=(1, 2)))


@pytest.fixture
def folder(tmp_path):
    return folder_of_three(tmp_path)


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    """In place of trained ones; that of a .zip was exported for infrared images."""
    exported = exported_model(1, program=MeanColor())
    monkeypatch.setattr(
        mbn_jax,
        "load",
        lambda path: (exported if path.endswith(".zip") else Model(), {}),
    )


def embed(folder, *flags, modality="infrared"):
    given = {"--workdir": "unused", "--modality": modality, "--images": folder}
    given |= {"--output": folder.parent / "f.npz"}
    return run("embed", *(f"{name}={value}" for name, value in given.items()), *flags)


def test_features_and_ranked_list_of_a_folder(folder, tmp_path):
    drawn = tmp_path / "list.png"
    done = embed(folder, f"--gallery={folder}", f"--ranked_list={drawn}")
    assert done.returncode == 0, done.stderr
    assert "features (3, 3) of 3 images" in done.stdout
    assert "Embedded 3 images" in done.stderr
    with np.load(tmp_path / "f.npz") as archive:
        assert archive["name"].tolist() == ["a.BMP", "b.png", "more/c.jpg"]
        features = archive["features"]
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    # Green, red and blue: the first channel of RGB is strongest in the second image.
    assert features[:, 0].argmax() == 1
    assert cv2.imread(str(drawn)).shape[1] > 500


def test_a_broken_image_is_named_and_nothing_is_written(folder, tmp_path, capfd):
    (folder / "broken.jpg").write_bytes(b"not an image at all")
    done = embed(folder, modality="visible")
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert str(folder / "broken.jpg") in error
    (folder / "broken.jpg").unlink()
    half = (folder / "b.png").read_bytes()
    (folder / "broken.png").write_bytes(half[:-30] + half[-12:])
    done = embed(folder, modality="visible")
    assert "broken.png" in done.stderr
    assert "WARN" not in done.stderr + capfd.readouterr().err  # of OpenCV
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_flags_of_the_reading_are_those_of_both_folders(folder):
    done = embed(
        folder,
        f"--gallery={folder}",
        "--sixteen_bits=infrared=7000,9000",
        "--sixteen_bits=thermal=0,1",
    )
    assert done.returncode == 1
    assert "is for images of thermal, but there are only infrared, visible" in (
        done.stderr
    )


@pytest.mark.parametrize(
    ("flags", "level"), [((), 255), (("--sixteen_bits=0,65535",), 16)]
)
def test_images_of_sixteen_bits_have_the_scale_of_the_training(flags, level, tmp_path):
    counts = np.full((24, 12, 3), 4095, np.uint16)
    counts[..., 2] = 0  # red
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "deep" / "0.png"), counts)
    done = embed(tmp_path / "deep", *flags)
    assert done.returncode == 0, done.stderr
    assert ("as in training: infrared=0,4095 (" in done.stderr) == (not flags)
    expected = normalize(np.array([[0, level, level]], np.uint8))
    expected /= np.linalg.norm(expected)
    with np.load(tmp_path / "f.npz") as archive:
        np.testing.assert_allclose(archive["features"], expected, atol=1e-5)
        assert archive["sixteen_bits"] == ("0,65535" if flags else "0,4095")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=infrared.zip", "--gallery={}"], "infrared.zip: The images are vi"),
        (["--gallery={}", "--gallery_model=infrared.zip"], "exported for infrared"),
        (["--gallery_model=other"], "--gallery_model needs --gallery"),
        (
            ["--gallery={}", "--gallery_modality=thermal"],
            "unused: There is no modality 'thermal'; expected one of visible, infrared",
        ),
        (
            ["--gallery={}", "--ranked_list={}/missing/list.png"],
            "is not a folder that may be written to",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work(folder, tmp_path, flags, message):
    done = embed(folder, *(flag.format(folder) for flag in flags))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_help_shows_an_example():
    done = run("embed", "--help")
    assert "--images=my_images" in done.stdout
    assert "--gallery_modality" in done.stdout
