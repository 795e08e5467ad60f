import os
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest

import mbn_jax
from mbn_jax.data.sixteen_bits import Scale
from mbn_jax.deploy import gallery_search
from mbn_jax.deploy.exported import ExportedModel
from mbn_jax.deploy.folder import Reading, find_images, read_images
from mbn_jax.deploy.gallery_search import (
    draw_gallery_search,
    embed_pictures,
    load_networks,
)
from mbn_jax.errors import InputError
from mbn_jax.models.weights import fingerprint
from mbn_jax.pixels import normalize

from .models.test_variants import filled, small

ROOT = Path(__file__).parents[1]

# The script with a model whose feature is the mean color, in place of a trained one;
# that of a .zip was exported for infrared pictures.
SCRIPT = """
import runpy, sys
from typing import Any, NamedTuple
import jax, mbn_jax

class Output(NamedTuple):
    embedding: jax.Array

class Model:
    image_size = (16, 8)
    modalities = ("visible", "infrared")
    sixteen_bits = ("auto", "0,4095")
    def apply(self, variables, images, modality, train):
        return Output(images.mean(axis=(1, 2)))

class Exported(Model):
    modality = 1
    def features(self, images):
        return images.mean(axis=(1, 2))

mbn_jax.load = lambda path: (Exported() if path.endswith(".zip") else Model(), {})
sys.argv = ["embed.py", "--workdir=unused", *sys.argv[1:]]
runpy.run_path("experiments/embed.py", run_name="__main__")
"""


def run(*flags):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, flags)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


class MeanColor:
    def call(self, images):
        return images.mean(axis=(1, 2))


def paint(path, bgr):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((24, 12, 3), bgr, np.uint8))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    paint(folder / "b.png", (0, 0, 255))
    paint(folder / "a.BMP", (0, 255, 0))
    paint(folder / "more" / "c.jpg", (255, 0, 0))
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_pictures_are_found_below_the_folder_in_the_order_of_their_names(pictures):
    assert find_images(pictures) == ["a.BMP", "b.png", "more/c.jpg"]


def test_every_format_is_found_in_small_and_capital_letters(tmp_path):
    names = [
        *("a.bmp", "b.jpeg", "c.jpg", "d.png", "e.tif", "f.tiff", "g.webp"),
        *("h.TIFF", "i.WebP"),
    ]
    for name in names:
        paint(tmp_path / name, (0, 0, 255))
    assert find_images(tmp_path) == names
    assert read_images(tmp_path, names, (24, 12)).shape == (9, 24, 12, 3)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_images(tmp_path / "missing")


def test_features_and_ranked_list_of_a_folder(pictures, tmp_path):
    output, picture = tmp_path / "f.npz", tmp_path / "list.png"
    done = run(
        f"--images={pictures}",
        "--modality=infrared",
        f"--output={output}",
        f"--gallery={pictures}",
        f"--ranked_list={picture}",
    )
    assert done.returncode == 0, done.stderr
    assert "features (3, 3) of 3 images" in done.stdout
    assert "3 of 3 images" in done.stderr
    with np.load(output) as archive:
        assert archive["name"].tolist() == ["a.BMP", "b.png", "more/c.jpg"]
        features = archive["features"]
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    # Green, red and blue: the first channel of RGB is strongest in the second picture.
    assert features[:, 0].argmax() == 1
    assert cv2.imread(str(picture)).shape[1] > 500


def test_a_broken_picture_is_named_and_nothing_is_written(pictures, tmp_path):
    (pictures / "broken.jpg").write_bytes(b"no picture at all")
    output = tmp_path / "f.npz"
    done = run(f"--images={pictures}", "--modality=visible", f"--output={output}")
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert str(pictures / "broken.jpg") in error
    (pictures / "broken.jpg").unlink()
    half = (pictures / "b.png").read_bytes()
    (pictures / "broken.png").write_bytes(half[:-30] + half[-12:])
    done = run(f"--images={pictures}", "--modality=visible", f"--output={output}")
    assert "broken.png" in done.stderr
    assert "WARN" not in done.stderr  # of OpenCV
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_links_are_followed_and_what_cannot_be_read_is_named(pictures):
    paint(pictures.parent / "elsewhere/d.png", (0, 0, 255))
    (pictures / "linked").symlink_to(pictures.parent / "elsewhere")
    (pictures / "._b.png").write_bytes(b"of macOS")
    names = find_images(pictures)
    assert names == ["a.BMP", "b.png", "linked/d.png", "more/c.jpg"]
    assert read_images(pictures, names, (24, 12)).shape == (4, 24, 12, 3)
    (pictures / "gone.png").symlink_to("/absent")
    with pytest.raises(InputError, match=r"gone\.png leads nowhere"):
        find_images(pictures)


def test_an_image_that_is_lost_or_a_folder_meanwhile_is_named(pictures):
    names = find_images(pictures)
    (pictures / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png cannot be read \(No such file"):
        read_images(pictures, names, (24, 12))
    (pictures / "b.png").mkdir()
    with pytest.raises(InputError, match=r"b\.png cannot be read \(Is a directory"):
        read_images(pictures, names, (24, 12))


def test_images_of_sixteen_bits_are_read_by_the_scale_that_is_given(
    pictures, tmp_path, capsys
):
    counts = np.full((24, 12), 7000, np.uint16)
    counts[:12] = 7400
    for name in ("0.png", "1.png"):
        cv2.imwrite(str(pictures / name), counts)
    wide, fixed = Reading(Scale("fixed", 0, 65535)), Reading(Scale("fixed", 6900, 7500))
    narrow: list[str] = []
    names = find_images(pictures)
    images = read_images(pictures, names, (24, 12), wide, narrow=narrow)
    assert [images[0].min(), images[0].max()] == [27, 29]
    assert [phrase.split()[2] for phrase in narrow] == [
        str(pictures / "0.png"),
        str(pictures / "1.png"),
    ]
    images = read_images(pictures, names, (24, 12), fixed)
    assert [images[0].min(), images[0].max()] == [42, 212]
    model = ExportedModel((16, 8), 0, Network.modalities, "", exported=MeanColor())
    for reading, expected in ((wide, 1), (fixed, 0)):
        embed_pictures(model, {}, pictures, "visible", tmp_path / "f.npz", reading)
        told = capsys.readouterr().err
        assert (
            told.count("warning: 2 of 5 images are nearly uniform. The im") == expected
        )
    with pytest.raises(InputError, match=r"0\.png declares 12 × 24 pixels, more than"):
        read_images(pictures, names, (24, 12), Reading(max_megapixels=1e-4))


def test_flags_of_the_reading_are_those_of_both_folders(pictures, tmp_path):
    done = run(
        f"--images={pictures}",
        "--modality=infrared",
        f"--gallery={pictures}",
        "--sixteen_bits=infrared=7000,9000",
        "--sixteen_bits=thermal=0,1",
        f"--output={tmp_path / 'f.npz'}",
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
    done = run(
        f"--images={tmp_path / 'deep'}",
        "--modality=infrared",
        f"--output={tmp_path / 'f.npz'}",
        *flags,
    )
    assert done.returncode == 0, done.stderr
    assert ("as in training: infrared=0,4095 (" in done.stderr) == (not flags)
    expected = normalize(np.array([[0, level, level]], np.uint8))
    expected /= np.linalg.norm(expected)
    with np.load(tmp_path / "f.npz") as archive:
        np.testing.assert_allclose(archive["features"], expected, atol=1e-5)
        assert archive["sixteen_bits"] == ("0,65535" if flags else "0,4095")


FULL = OSError(28, "No space left on device")


def test_a_full_disk_is_one_sentence(pictures, tmp_path, monkeypatch):
    def full(*_):
        raise FULL

    model = ExportedModel((16, 8), 0, Network.modalities, "", exported=MeanColor())
    monkeypatch.setattr(gallery_search, "write_atomically", full)
    with pytest.raises(InputError, match=r"f\.npz cannot be written \(No space left"):
        embed_pictures(model, {}, pictures, "visible", tmp_path / "f.npz")
    query = (pictures, np.eye(3, dtype=np.float32), find_images(pictures))
    with pytest.raises(InputError, match=r"list\.png cannot be written \(No space le"):
        draw_gallery_search(
            model, {}, query, pictures, "visible", tmp_path / "list.png"
        )


def test_names_that_are_too_long_are_refused_before_the_work(pictures, tmp_path):
    for name in ("x" * 300, f"{'x' * 300}/f.npz"):
        with pytest.raises(InputError, match="cannot be written"):
            gallery_search.check_places([], [tmp_path / name])
    with pytest.raises(InputError, match="is not a folder"):
        gallery_search.check_places([tmp_path / ("x" * 300)], [])
    model = ExportedModel((16, 8), 0, Network.modalities, "", exported=MeanColor())
    longest = tmp_path / f"{'ü' * 125}.npz"  # 254 bytes
    embed_pictures(model, {}, pictures, "visible", longest)
    assert longest.is_file()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(pictures, tmp_path):
    done = run(
        f"--images={pictures}",
        "--modality=visible",
        f"--output={tmp_path / 'f.npz'}",
        f"--gallery={pictures}",
        f"--ranked_list={tmp_path / 'missing' / 'list.png'}",
    )
    assert done.returncode == 1
    assert "is not a folder that may be written to" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="it names something else"):
            gallery_search.check_places([], [path])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--workdir=infrared.zip", "--gallery={}"],
            "infrared.zip: The images are vis",
        ),
        (["--gallery={}", "--gallery_model=infrared.zip"], "exported for infrared"),
        (["--gallery_model=other"], "--gallery_model has no --gallery"),
        (
            ["--gallery={}", "--gallery_modality=thermal"],
            "unused: There is no modality 'thermal'; expected one of visible, infrared",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused_before_the_work(
    pictures, tmp_path, flags, message
):
    done = run(
        f"--images={pictures}",
        "--modality=infrared",
        f"--output={tmp_path / 'f.npz'}",
        *(flag.format(pictures) for flag in flags),
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def parameters(seed):
    return {"params": {"kernel": np.full((2, 3), seed, np.float32)}}


class Network:
    """What a work directory holds, as far as it is asked for its modalities."""

    modalities = ("visible", "infrared")


def exported_model(modality, seed, modalities=Network.modalities):
    network = fingerprint(parameters(seed))
    return ExportedModel((16, 8), modality, modalities, network, exported=None)


def test_models_of_one_network_are_loaded_once_each_and_others_refused(monkeypatch):
    forms = {
        "run": (Network(), parameters(1)),
        "visible.zip": (exported_model(0, 1), {}),
        "infrared.zip": (exported_model(1, 1), {}),
        "other.zip": (exported_model(0, 2), {}),
        "other run": (Network(), parameters(2)),
    }
    asked = []
    monkeypatch.setattr(mbn_jax, "load", lambda path: asked.append(path) or forms[path])
    for pair in (
        [("infrared.zip", "infrared"), ("visible.zip", "visible")],
        [("infrared.zip", "infrared"), ("run", "visible")],
        [("run", "infrared"), ("run", "visible")],
    ):
        assert load_networks(pair) == [forms[path] for path, _ in pair]
    assert asked == ["infrared.zip", "visible.zip", "infrared.zip", "run", "run"]
    for path in ("other.zip", "other run"):
        with pytest.raises(InputError, match=f"and {path} are of different networks"):
            load_networks([("infrared.zip", "infrared"), (path, "visible")])


def test_a_modality_is_looked_up_in_the_network_that_was_loaded(monkeypatch):
    three = exported_model(2, 1, ("visible", "nir", "thermal"))
    monkeypatch.setattr(mbn_jax, "load", lambda path: (three, {}))
    assert load_networks([("thermal.zip", "thermal")]) == [(three, {})]
    with pytest.raises(InputError, match=r"thermal\.zip: The images are nir, but"):
        load_networks([("thermal.zip", "nir")])
    with pytest.raises(InputError, match="'infrared'; expected one of visible, nir, t"):
        load_networks([("thermal.zip", "infrared")])


def test_a_folder_is_embedded_by_the_name_of_its_modality(pictures, tmp_path):
    model = small(modalities=("visible", "nir", "thermal"))
    variables = filled(model)
    found, names = embed_pictures(
        model, variables, pictures, "thermal", tmp_path / "thermal.npz"
    )
    images = read_images(pictures, names, model.image_size)
    np.testing.assert_array_equal(found, mbn_jax.embed(model, variables, images, 2))
    with np.load(tmp_path / "thermal.npz") as archive:
        np.testing.assert_array_equal(archive["features"], found)
    draw_gallery_search(
        model,
        variables,
        (pictures, found, names),
        pictures,
        "nir",
        tmp_path / "list.png",
    )
    assert cv2.imread(str(tmp_path / "list.png")).shape[1] > 500


def test_features_of_another_length_are_refused(pictures, tmp_path):
    query = (pictures, np.eye(3, 4, dtype=np.float32), find_images(pictures))
    shorter = ExportedModel((16, 8), 0, Network.modalities, "", exported=MeanColor())
    with pytest.raises(InputError, match=r"queries have 4 numbers .* the gallery 3"):
        draw_gallery_search(
            shorter, {}, query, pictures, "visible", tmp_path / "list.png"
        )
    assert not (tmp_path / "list.png").exists()


def test_help_shows_an_example():
    done = run("--help")
    assert "--images=my_images" in done.stdout
    assert "--gallery_modality" in done.stdout
