"""SYSU-MM01 in its true shape, from the authors' files; no image is needed.

The files rand_perm_cam.mat and test_id.mat lie in a folder that the environment
variable SYSU_MM01_EXP names; without it these tests are skipped.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from mbn_jax.data.sources.sysu_mm01 import protocol as sysu_mm01
from mbn_jax.data.sources.sysu_mm01 import read_permutations
from mbn_jax.evaluation import evaluate_chance, retrieval_metrics
from mbn_jax.evaluation.records import Records

from . import reference

EXP = os.environ.get("SYSU_MM01_EXP")
pytestmark = pytest.mark.skipif(
    EXP is None, reason="needs SYSU_MM01_EXP, the folder of SYSU-MM01's exp/*.mat"
)
SIZES = {("all", 1): 301, ("all", 10): 3010, ("indoor", 1): 112, ("indoor", 10): 1120}
every_size = pytest.mark.parametrize(("search", "shots"), SIZES)
both_galleries = pytest.mark.parametrize("gallery", ["agw", "official"])


@pytest.fixture(scope="module")
def cells():
    return scipy.io.loadmat(Path(EXP) / "rand_perm_cam.mat")["rand_perm_cam"]


@pytest.fixture(scope="module")
def records(cells):
    """Of every image of the test identities."""
    test_ids = scipy.io.loadmat(Path(EXP) / "test_id.mat")["id"][0]
    rows = []
    for identity in sorted(test_ids.tolist()):
        for camera in range(1, 7):
            num_images = cells[camera - 1, 0][identity - 1, 0].shape[1]
            rows += [
                (identity, camera, f"cam{camera}/{identity:04d}/{image:04d}.jpg")
                for image in range(1, num_images + 1)
            ]
    identity, camera, name = map(np.array, zip(*rows, strict=True))
    modality = np.isin(camera, (3, 6)).astype(int)
    return Records(identity=identity, camera=camera, modality=modality, name=name)


@pytest.fixture(scope="module")
def permutations():
    return read_permutations(Path(EXP) / "rand_perm_cam.mat")


def make(search, shots, gallery, permutations):
    official = permutations if gallery == "official" else None
    return sysu_mm01(search, shots, gallery, official)


def test_the_test_set_has_its_published_numbers(records):
    counts = {camera: int(np.sum(records.camera == camera)) for camera in range(1, 7)}
    assert counts == {1: 1374, 2: 1565, 3: 1883, 4: 1918, 5: 1918, 6: 1920}
    assert len(np.unique(records.identity)) == 96


@every_size
@both_galleries
def test_queries_and_galleries_have_their_published_sizes(
    records, permutations, search, shots, gallery
):
    protocol = make(search, shots, gallery, permutations)
    trials = protocol.trials(records)
    assert len(trials) == 10
    for query, images in trials:
        assert len(query) == 3803
        assert len(np.unique(images)) == len(images) == SIZES[search, shots]


@pytest.mark.parametrize(("search", "valid"), [("all", 3803), ("indoor", 2208)])
@both_galleries
def test_so_many_queries_have_a_match(records, permutations, search, valid, gallery):
    protocol = make(search, 1, gallery, permutations)
    chance = evaluate_chance(records, [protocol])[protocol.name]
    assert chance["num_valid_queries"] == valid
    for query, images in protocol.trials(records):
        found = retrieval_metrics(
            np.zeros((len(query), len(images))),
            records.identity[query],
            records.identity[images],
            records.camera[query],
            records.camera[images],
            protocol=protocol,
        )
        assert found["num_valid_queries"] == valid


@every_size
def test_official_galleries_are_the_first_entries_of_the_rows_of_the_file(
    records, permutations, cells, search, shots
):
    cameras = (1, 2, 4, 5) if search == "all" else (1, 2)
    trials = sysu_mm01(search, shots, "official", permutations).trials(records)
    for t, (_, gallery) in enumerate(trials):
        expected = [
            f"cam{camera}/{identity:04d}/{number:04d}.jpg"
            for identity in np.unique(records.identity)
            for camera in cameras
            for number in cells[camera - 1, 0][identity - 1, 0][t : t + 1, :shots].flat
        ]
        assert records.name[gallery].tolist() == expected


@pytest.mark.parametrize(
    ("search", "shots"), [("all", 1), ("indoor", 1), ("all", 10), ("indoor", 10)]
)
@both_galleries
def test_figures_equal_the_loops(records, permutations, cells, search, shots, gallery):
    protocol = make(search, shots, gallery, permutations)
    orders = {
        (camera, identity): cells[camera - 1, 0][identity - 1, 0]
        for camera in (1, 2, 4, 5)
        for identity in np.unique(records.identity).tolist()
    }
    by_loops = reference.sysu_mm01(
        records, search, shots, orders if gallery == "official" else None
    )
    trials = protocol.trials(records)
    for (_, images), (_, expected) in zip(trials, by_loops, strict=True):
        assert images.tolist() == expected

    # The loops are slow: every 17th query, in the last trial.
    query, images = trials[9][0][::17], trials[9][1]
    rng = np.random.default_rng(0)
    distances = rng.integers(40, size=(len(query), len(images))).astype(np.float32)
    found = retrieval_metrics(
        distances,
        records.identity[query],
        records.identity[images],
        records.camera[query],
        records.camera[images],
        protocol=protocol,
    )
    row = dict(zip(query.tolist(), distances, strict=True))
    column = {image: place for place, image in enumerate(images.tolist())}
    by_image = {
        q: {image: row[q][place] for image, place in column.items()} for q in row
    }
    scores = reference.score(
        records.identity.tolist(),
        by_image,
        query.tolist(),
        images.tolist(),
        lambda q, g: records.camera[q] == 3 and records.camera[g] == 2,
        "identities",
    )
    expected = reference.figures(scores, len(query), len(images))
    for key, value in expected.items():
        if key in ("mAP", "mINP"):
            assert found[key] == pytest.approx(value, abs=1e-6)
        else:
            assert found[key] == value
