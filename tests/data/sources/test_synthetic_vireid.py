"""The synthetic data as a data set: rendered once, stored, and read back."""

import cv2
import numpy as np
import pytest

from mbn_jax.data.catalog import path_of
from mbn_jax.data.dataset import load_split
from mbn_jax.data.synthetic_vireid.config import config_from_name
from mbn_jax.data.synthetic_vireid.render import render

NAME = "synthetic_vireid/three-3-1-2-x2"


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {s: load_split(NAME, s, folder) for s in ("train", "val", "test")}


def test_splits_share_no_identity(splits):
    identities = {name: set(split.identity.tolist()) for name, split in splits.items()}
    assert identities == {"train": {1, 2, 3}, "val": {4}, "test": {5, 6}}


def test_every_identity_is_seen_equally_often_by_every_camera(splits):
    for split in splits.values():
        seen = list(zip(split.identity.tolist(), split.camera.tolist(), strict=True))
        assert {camera for _, camera in seen} == {1, 2, 3, 4}
        assert {seen.count(pair) for pair in seen} == {2}


def test_the_modality_of_a_record_is_that_of_its_camera(splits):
    for split in splits.values():
        assert split.modalities == ("visible", "nir", "thermal")
        np.testing.assert_array_equal(
            split.modality, np.array([0, 0, 1, 2])[split.camera - 1]
        )


def test_records_come_back_as_they_were_rendered(splits):
    cameras = config_from_name("three").cameras
    split = splits["test"]
    for index in range(8):
        camera, identity, image = split.name[index].removesuffix(".jpg").split("/")
        number = int(camera.removeprefix("cam"))
        assert (number, int(identity)) == (split.camera[index], split.identity[index])
        encoded = np.frombuffer(split.encoded_image(index), np.uint8)
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
        original = render(0, int(identity), cameras[number - 1], int(image))
        assert decoded.shape == original.shape
        difference = decoded.astype(float) - original
        assert np.sqrt(np.mean(difference**2)) < 12  # what JPEG takes of the noise


def test_the_same_name_twice_writes_the_same_bytes(tmp_path):
    name = "synthetic_vireid/thermal-2-1-1-x2"
    files = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        load_split(name, "train", folder)
        found = sorted(path_of(name, folder).rglob("*.array_record*"))
        files.append([(path.name, path.read_bytes()) for path in found])
    assert len(files[0]) == 3
    assert files[0] == files[1]
