import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.evaluation.folder import find_images

ROOT = Path(__file__).parents[1]

# The script with a model whose feature is the mean colour, in place of a trained one.
SCRIPT = """
import runpy, sys
from typing import Any, NamedTuple
import jax, mbn_jax

class Output(NamedTuple):
    embedding: jax.Array

class Model:
    image_size = (16, 8)
    def apply(self, variables, images, modality, train):
        return Output(images.mean(axis=(1, 2)))

mbn_jax.load = lambda workdir: (Model(), {})
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


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no picture"):
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
    assert "features (3, 3) of 3 pictures" in done.stdout
    assert "3 of 3 pictures" in done.stderr
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
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


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


def test_help_shows_an_example():
    done = run("--help")
    assert (
        "--images=my_pictures" in done.stdout or "--images my_pictures" in done.stdout
    )
    assert "--gallery_modality" in done.stdout
