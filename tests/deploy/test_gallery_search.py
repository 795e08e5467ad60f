"""A folder is searched for the images of another, and files are written."""

import os

import cv2
import numpy as np
import pytest

import mbn_jax
from mbn_jax.deploy import gallery_search
from mbn_jax.deploy.embed import EmbeddedFolder, Reading, find_images
from mbn_jax.deploy.gallery_search import (
    check_output,
    draw_search,
    load_networks,
    write_features,
)
from mbn_jax.errors import InputError

from .folders import BOTH, exported_model, folder_of_three, parameters


@pytest.fixture
def embedded(tmp_path):
    folder = folder_of_three(tmp_path)
    features = np.eye(3, dtype=np.float32)
    return EmbeddedFolder(folder, find_images(folder), features, Reading())


def test_the_features_of_a_folder_are_written_with_their_names(embedded, tmp_path):
    longest = tmp_path / f"{'ü' * 125}.npz"  # 254 bytes
    write_features(embedded, longest)
    with np.load(longest) as archive:
        np.testing.assert_array_equal(archive["features"], embedded.features)
        assert archive["name"].tolist() == embedded.names
        assert archive["sixteen_bits"] == "auto"


def test_ranked_lists_are_drawn(embedded, tmp_path):
    draw_search(embedded, embedded, (16, 8), tmp_path / "list.png")
    assert cv2.imread(str(tmp_path / "list.png")).shape[1] > 500


def test_a_full_disk_is_one_sentence(embedded, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gallery_search, "write_atomically", full)
    with pytest.raises(InputError, match=r"f\.npz cannot be written \(No space left"):
        write_features(embedded, tmp_path / "f.npz")
    with pytest.raises(InputError, match=r"list\.png cannot be written \(No space le"):
        draw_search(embedded, embedded, (16, 8), tmp_path / "list.png")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    for name in ("x" * 300, f"{'x' * 300}/f.npz"):
        with pytest.raises(InputError, match="cannot be written"):
            check_output(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="it does not name a file"):
            check_output(path)


def test_features_of_another_length_are_refused(embedded, tmp_path):
    longer = embedded._replace(features=np.eye(3, 4, dtype=np.float32))
    with pytest.raises(InputError, match=r"queries have 4 numbers .* the gallery 3"):
        draw_search(longer, embedded, (16, 8), tmp_path / "list.png")
    assert not (tmp_path / "list.png").exists()


class Network:
    """What a work directory holds, as far as it is asked for its modalities."""

    modalities = BOTH


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
