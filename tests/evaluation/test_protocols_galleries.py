"""Which images are drawn, and what is said when they cannot be."""

import os
import random

import numpy as np
import pytest
import scipy.io

from mbn_jax.data.sources.sysu_mm01 import protocol as sysu_mm01
from mbn_jax.data.sources.sysu_mm01 import read_permutations
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import Records


def make_records(files):
    """Visible images by (identity, camera, image)."""
    identity, camera, _ = map(np.array, zip(*files, strict=True))
    names = [f"cam{c}/{i:04d}/{n:04d}.jpg" for i, c, n in files]
    return Records(
        identity=identity,
        camera=camera,
        modality=np.zeros(len(files), int),
        name=np.array(names),
    )


def names(records, protocol):
    """Of the gallery of each trial."""
    trials = protocol.trials(records)
    return [records.name[trial.gallery].tolist() for trial in trials]


FILES = [(i, c, n) for i in (6, 10) for c in (1, 2, 4, 5) for n in range(1, 5)]


@pytest.mark.parametrize("seed", range(10))
def test_a_sample_of_one_is_the_choice_of_the_same_stream(seed):
    choosing, sampling = random.Random(seed), random.Random(seed)
    for size in (1, 2, 3, 5, 8, 20, 22, 100, 1000):
        folder = list(range(size))
        assert [choosing.choice(folder)] == sampling.sample(folder, 1)


def test_a_seeded_gallery_does_not_depend_on_the_order_of_the_records():
    records = make_records(FILES)
    shuffled = make_records(
        [FILES[i] for i in np.random.default_rng(0).permutation(32)]
    )
    for shots in (1, 3):
        protocol = sysu_mm01(shots=shots)
        assert names(records, protocol) == names(shuffled, protocol)


def test_a_seeded_gallery_leaves_the_random_numbers_of_others_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    sysu_mm01().trials(make_records(FILES))
    assert random.random() == expected


def test_ten_trials_differ():
    assert (
        len({tuple(gallery) for gallery in names(make_records(FILES), sysu_mm01())}) > 5
    )


@pytest.mark.parametrize("shots", [1, 3, 4, 9])
def test_a_gallery_has_so_many_shots_or_all_that_there_are(shots):
    records = make_records(FILES)
    for gallery in names(records, sysu_mm01(shots=shots)):
        assert len(gallery) == len(set(gallery)) == 8 * min(shots, 4)
    for gallery in names(records, sysu_mm01("indoor", shots)):
        assert len(gallery) == 4 * min(shots, 4)
        assert all(name.startswith(("cam1/", "cam2/")) for name in gallery)


def orders(files):
    """The same images backwards in every trial but the first, which is in order."""
    counts = {(c, i): 0 for i, c, _ in files}
    for i, c, _ in files:
        counts[c, i] += 1
    return {
        pair: np.array([np.arange(1, n + 1)] + [np.arange(n, 0, -1)] * 9)
        for pair, n in counts.items()
    }


def test_an_official_gallery_takes_the_first_numbers_of_the_row_of_its_trial():
    files = [(6, 1, n) for n in range(1, 5)] + [(6, 2, n) for n in range(1, 4)]
    protocol = sysu_mm01("all", 2, "official", orders(files))
    galleries = names(make_records(files), protocol)
    first = ["cam1/0006/0001.jpg", "cam1/0006/0002.jpg",
             "cam2/0006/0001.jpg", "cam2/0006/0002.jpg"]  # fmt: skip
    backwards = ["cam1/0006/0004.jpg", "cam1/0006/0003.jpg",
                 "cam2/0006/0003.jpg", "cam2/0006/0002.jpg"]  # fmt: skip
    assert galleries == [first] + [backwards] * 9


def test_an_official_gallery_that_asks_for_a_missing_image_names_it():
    protocol = sysu_mm01("all", 1, "official", orders(FILES))
    records = make_records([file for file in FILES if file != (10, 4, 4)])
    with pytest.raises(InputError, match=r"cam4/0010/0004\.jpg\), which is missing"):
        protocol.trials(records)


def test_an_identity_that_the_official_file_does_not_know_is_named():
    protocol = sysu_mm01("all", 1, "official", orders(FILES[:16]))
    with pytest.raises(InputError, match="no image of identity 10 in camera 1"):
        protocol.trials(make_records(FILES))


def test_image_names_without_a_number_have_no_official_gallery_but_a_seeded_one():
    records = make_records(FILES)
    records.name[:] = [f"{i:04d}_front.jpg" for i in range(len(records))]
    assert len(sysu_mm01().trials(records)) == 10
    with pytest.raises(InputError, match=r"'0000_front\.jpg' does not end in a number"):
        sysu_mm01("all", 1, "official", orders(FILES)).trials(records)


def cells(content):
    """A cell array over cameras, of cell arrays over identities."""
    cameras = np.empty((len(content), 1), object)
    for c, identities in enumerate(content):
        cameras[c, 0] = np.empty((len(identities), 1), object)
        for i, entry in enumerate(identities):
            cameras[c, 0][i, 0] = entry
    return cameras


def permutations(count):
    rows = [np.random.default_rng(k).permutation(count) + 1 for k in range(10)]
    return np.array(rows, np.uint8).reshape(10, count)


def test_the_official_file_is_read_without_its_empty_entries(tmp_path):
    path = tmp_path / "rand_perm_cam.mat"
    content = [[permutations(3), permutations(0)], [permutations(0), permutations(5)]]
    scipy.io.savemat(path, {"rand_perm_cam": cells(content)})
    found = read_permutations(path)
    assert set(found) == {(1, 1), (2, 2)}
    np.testing.assert_array_equal(found[1, 1], content[0][0])
    np.testing.assert_array_equal(found[2, 2], content[1][1])


def test_a_missing_official_file_says_where_it_lies(tmp_path):
    with pytest.raises(InputError, match="does not exist; give the path of rand_perm"):
        read_permutations(tmp_path / "rand_perm_cam.mat")
    os.mkfifo(tmp_path / "rand_perm_cam.mat")  # to read it would wait forever
    with pytest.raises(InputError, match=r"\.mat is not a regular file"):
        read_permutations(tmp_path / "rand_perm_cam.mat")


@pytest.mark.parametrize("content", [b"", b"no such thing", b"\x00" * 300])
def test_a_file_that_is_no_mat_is_refused(tmp_path, content):
    path = tmp_path / "rand_perm_cam.mat"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"rand_perm_cam\.mat"):
        read_permutations(path)


@pytest.mark.parametrize(
    "variables",
    [
        {"id": np.arange(5)},
        {"rand_perm_cam": np.arange(5)},
        {"rand_perm_cam": "text"},
        {"rand_perm_cam": np.zeros((6, 1))},
        {"rand_perm_cam": cells([[permutations(0)]])},
        {"rand_perm_cam": cells([[permutations(4)[:9]]])},
        {"rand_perm_cam": cells([[permutations(4) + 1]])},
        {"rand_perm_cam": cells([[np.zeros((10, 3), np.uint8)]])},
        {"rand_perm_cam": cells([["text"]])},
        {"rand_perm_cam": cells([[cells([[permutations(3)]])]])},
    ],
    ids=["other", "numbers", "text", "no cells", "empty", "nine", "from two", "zeros",
         "text inside", "deeper"],
)  # fmt: skip
def test_another_mat_is_refused(tmp_path, variables):
    path = tmp_path / "rand_perm_cam.mat"
    scipy.io.savemat(path, variables)
    with pytest.raises(InputError, match=r"give (that file|the rand_perm_cam\.mat)"):
        read_permutations(path)


def test_a_truncated_official_file_is_refused(tmp_path):
    path = tmp_path / "rand_perm_cam.mat"
    scipy.io.savemat(path, {"rand_perm_cam": cells([[permutations(50)] * 20])})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"give (that file|the rand_perm_cam\.mat)"):
        read_permutations(path)
