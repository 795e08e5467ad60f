"""SYSU-MM01: what is read from its folders, and what is said of broken ones."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mbn_jax.data.dataset import load_split
from mbn_jax.data.prepare import prepare_data
from mbn_jax.data.sources.sysu_mm01 import SOURCE, protocol, read_permutations
from mbn_jax.errors import InputError
from mbn_jax.evaluation import evaluate_chance
from mbn_jax.evaluation.records import Records

from . import trees

OFFICIAL = os.environ.get("SYSU_MM01_EXP")
UNLIKE = "folders that are not complete"
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trees.write_sysu_mm01(tmp_path_factory.mktemp("whole") / "SYSU-MM01")


@pytest.fixture
def root(whole, tmp_path):
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "SYSU-MM01"))


def scan(root):
    return trees.scan("sysu_mm01", root)


def problems(root):
    return trees.sentences(scan(root).findings.problems)


def warnings(root, kind=None):
    return trees.sentences(scan(root).findings.warnings, kind)


def test_whole_tree_has_no_problem(whole):
    found = scan(whole)
    assert not found.findings.problems
    assert not found.findings.warnings
    assert not found.left_out
    # Four, two and three identities with three images of each in six or three cameras.
    assert found.manifests["sysu_mm01"].counts() == {
        "train": {"visible": 4 * 4 * 3, "infrared": 4 * 2 * 3},
        "val": {"visible": 2 * 2 * 3, "infrared": 2 * 1 * 3},
        "test": {"visible": 3 * 4 * 3, "infrared": 3 * 2 * 3},
    }
    assert SOURCE.training == "train+val"


def test_galleries_and_what_else_belongs_to_it_are_expected(root):
    trees.write_rand_perm_cam(root)
    (root / "exp/train_id.mat").write_bytes(b"")
    assert not warnings(root)


def test_rows_are_in_the_order_of_identity_camera_and_file(whole):
    found = scan(whole)
    for split in SPLITS:
        rows = trees.rows_of(found, "sysu_mm01", split)
        paths = [
            path.relative_to(whole).as_posix()
            for path in whole.glob("cam*/*/*.jpg")
            if int(path.parts[-2]) in trees.sysu_mm01_identities()[split]
        ]
        paths.sort(key=lambda path: (path.split("/")[1], path))
        assert [row.path for row in rows] == paths
        trees.assert_rows_follow_paths(
            rows,
            r"cam(?P<camera>\d)/(?P<identity>\d{4})/\d{4}\.jpg",
            lambda said: "infrared" if said["camera"] in "36" else "visible",
        )


def remove_folder(name):
    return lambda root: shutil.rmtree(root / name)


def remove_identity(root):
    for folder in root.glob("cam*/0010"):
        shutil.rmtree(folder)


def in_test_list(new):
    return lambda root: trees.edit(root / "exp/test_id.txt", "6,", new)


BROKEN = {
    "camera": (remove_folder("cam2"), r"folder .*cam2 is missing; copy"),
    "all lists": (remove_folder("exp"), r"folder .*exp is missing; copy"),
    "list": (
        lambda root: (root / "exp/val_id.txt").unlink(),
        r"file .*val_id\.txt is missing; copy",
    ),
    "absent identity": (remove_identity, "Identity 10 is listed for test, but has no"),
    "identity in two lists": (
        in_test_list("6,18,"),
        r"Identity 18 is in .*train_id\.txt and in .*test_id\.txt",
    ),
    "identity listed twice": (in_test_list("6,6,"), r"_id\.txt lists identity 6 twice"),
    "no integer": (in_test_list("6,x7,"), r"test_id\.txt holds 'x7' where the number"),
    "empty list": (
        lambda root: (root / "exp/test_id.txt").write_text("\n"),
        r"test_id\.txt lists no identity",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tree_is_described(root, case):
    breaks, pattern = BROKEN[case]
    breaks(root)
    assert re.search(pattern, problems(root))


def test_everything_missing_is_named(root):
    names = ["cam1", "cam6", "exp/train_id.txt", "exp/test_id.txt"]
    for name in names:
        path = root / name
        (shutil.rmtree if path.is_dir() else os.unlink)(path)
    told = problems(root)
    for name in names:
        assert f"{root / name} is missing" in told


def test_missing_list_and_empty_image_of_it_are_told_in_one_run(root, tmp_path, capsys):
    (root / "exp/val_id.txt").unlink()
    image = root / "cam4/0034/0002.jpg"  # of val
    image.write_bytes(b"")
    with pytest.raises(InputError):
        prepare_data("sysu_mm01", tmp_path, folders={"manual_dir": [root]})
    told = capsys.readouterr().err
    assert f"problem: The file {root}/exp/val_id.txt is missing" in told
    assert f"warning: The image {image} is empty; it is in no split" in told


def test_unexpected_things_are_left_out_with_a_warning(root):
    before = scan(root).manifests["sysu_mm01"].counts()
    strange = [
        "cam7/0006/0001.jpg",
        "cam1/6/0001.jpg",
        "cam1/0006/Thumbs.db",
        "cam1/0006/1.jpg",
        "exp/notes.txt",
        "readme.txt",
    ]
    for name in strange:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(trees.encode(name))
    (root / "cam1/0006/0009.jpg").mkdir()
    found = scan(root)
    assert not found.findings.problems
    assert found.manifests["sysu_mm01"].counts() == before
    told = trees.sentences(found.findings.warnings)
    for name in ["cam7", "cam1/6", *strange[2:], "cam1/0006/0009.jpg"]:
        assert f"{root / name}'" in told


def test_identities_in_no_list_are_left_out_in_one_sentence(root, tmp_path, capsys):
    trees.truncate(trees.add_image(root, "cam1/0500/0001.jpg"))
    trees.add_image(root, "cam4/0501/0001.jpg")
    found = scan(root)
    assert "2 images of 2 identities (500, 501)" in warnings(root)
    assert found.left_out == ["cam1/0500/0001.jpg", "cam4/0501/0001.jpg"]
    # The damaged one of them does not stop the work.
    data_dir = tmp_path / "data"
    prepare_data("sysu_mm01", data_dir, folders={"manual_dir": [root]})
    told = capsys.readouterr().err
    assert f"warning: The image {root}/cam1/0500/0001.jpg ends too early" in told
    assert "problem: " not in told
    prepared = load_split("sysu_mm01", "train+val", data_dir)
    paths = [
        row.path
        for split in ("train", "val")
        for row in trees.rows_of(found, "sysu_mm01", split)
    ]
    assert prepared.name.tolist() == paths
    for i, path in enumerate(paths):
        assert prepared.encoded_image(i) == (root / path).read_bytes()


def remove_images(root, *names):
    for name in names:
        (root / name).unlink()


def test_gap_in_the_numbers_of_images_is_named(root):
    remove_images(root, "cam1/0006/0002.jpg", "cam3/0018/0001.jpg")
    trees.add_image(root, "cam5/0006/0050.jpg")
    trees.add_image(root, "cam5/0010/0000.jpg")
    first, second, wide, zero = warnings(root, UNLIKE).splitlines()
    assert f"folder {root}/cam1/0006 has 2 images (missing: 2); copy" in first
    assert f"{root}/cam3/0018 has 2 images (missing: 1); copy" in second
    assert f"{root}/cam5/0006 has 4 images (missing: 4, 5, 6, 7, 8, …)" in wide
    assert f"{root}/cam5/0010 has 4 images (missing: 4; unknown: 0)" in zero


def lose_a_gap(root):
    remove_images(root, "cam1/0006/0002.jpg")


def lose_the_end(root):
    remove_images(root, "cam1/0006/0003.jpg", "cam1/0006/0002.jpg")


def lose_all(root):
    remove_images(root, *(f"cam1/0006/000{n}.jpg" for n in (1, 2, 3)))


def gain_one(root):
    trees.add_image(root, "cam1/0006/0004.jpg")


def gain_a_folder(root):
    trees.add_image(root, "cam1/0034/0001.jpg")  # of val, whom it did not see


def test_empty_folder_of_an_identity_is_named(root):
    lose_all(root)
    assert f"{root}/cam1/0006 has 0 images (it is empty); copy it" in warnings(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose_a_gap, "0006 has 2 images and should have 3 by {mat} (missing: 2); copy"),
        (lose_the_end, "0006 has 1 image and should have 3 by {mat} (missing: 2, 3);"),
        (lose_all, "0006 has 0 images and should have 3 by {mat} (missing: 1, 2, 3);"),
        (
            remove_folder("cam1/0006"),
            "0006 is missing and should have 3 by {mat} (missing: 1, 2, 3); copy",
        ),
        (gain_one, "0006 has 4 images and should have 3 by {mat} (unknown: 4); copy"),
        (gain_a_folder, "0034 has 1 image and should have 0 by {mat} (unknown: 1);"),
    ],
)
def test_official_galleries_tell_once_what_a_folder_lacks(root, change, words):
    mat = trees.write_rand_perm_cam(root)
    change(root)
    (told,) = scan(root).findings.warnings
    assert f"{root}/cam1/{words.format(mat=mat)}" in told.sentence
    assert told.kind == UNLIKE


def test_official_galleries_do_not_repeat_problems(root):
    trees.write_rand_perm_cam(root)
    shutil.rmtree(root / "cam2")
    remove_identity(root)
    assert not warnings(root)


def test_official_galleries_count_everyone_when_a_list_is_missing(root):
    trees.write_rand_perm_cam(root)
    (root / "exp/val_id.txt").unlink()
    shutil.rmtree(root / "cam4/0034")
    (told,) = warnings(root, UNLIKE).splitlines()
    assert f"{root}/cam4/0034 is missing" in told


def test_folder_that_the_official_galleries_do_not_ask_for_may_be_absent_or_empty(root):
    trees.add_image(root, "cam1/0500/0001.jpg")
    trees.write_rand_perm_cam(root)
    shutil.rmtree(root / "cam1/0500")
    (root / "cam1/0034").mkdir()
    assert not warnings(root)


@pytest.mark.parametrize("content", [b"", b"page not found", None])
def test_unreadable_official_galleries_are_a_warning(root, content):
    path = root / "exp/rand_perm_cam.mat"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    found = scan(root).findings
    assert not found.problems
    (told,) = found.warnings
    assert "cannot be counted by rand_perm_cam.mat: " in told.sentence
    assert str(path) in told.sentence


def test_identity_of_one_modality_is_a_warning(root):
    for camera in (3, 6):
        shutil.rmtree(root / f"cam{camera}/0018")
    assert not problems(root)
    assert "Identity 18 of train has no infrared image" in warnings(root)


def test_folder_above_or_below_is_told_from_the_right_one(whole):
    for near in (whole.parent, whole / "cam1"):
        with pytest.raises(InputError, match=f"{whole} looks right"):
            scan(near)


def test_other_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds none of cam1, .*exp"):
        scan(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        scan(tmp_path / "absent")


def as_records(rows):
    return Records(
        identity=np.array([int(row.identity) for row in rows]),
        camera=np.array([int(row.camera) for row in rows]),
        modality=np.array([int(row.modality == "infrared") for row in rows]),
        name=np.array([row.path for row in rows]),
    )


@pytest.mark.skipif(OFFICIAL is None, reason="SYSU_MM01_EXP is not set")
def test_true_shape_has_the_published_numbers(tmp_path):
    root = trees.write_true_sysu_mm01(tmp_path / "SYSU-MM01", OFFICIAL)
    for galleries in (False, True):
        if galleries:
            shutil.copy(Path(OFFICIAL) / "rand_perm_cam.mat", root / "exp")
        found = scan(root)
        assert not found.findings.problems
        assert [w.kind for w in found.findings.warnings] == ["unlisted identities"]
    assert "1,118 images of 22 identities" in trees.sentences(found.findings.warnings)
    assert [c for c in found.findings.counts if c.expected != c.found] == []
    assert len(found.left_out) == 1_118

    manifest = found.manifests["sysu_mm01"]
    assert manifest.counts() == {
        "train": {"visible": 20_284, "infrared": 9_929},
        "val": {"visible": 1_974, "infrared": 1_980},
        "test": {"visible": 6_775, "infrared": 3_803},
    }
    assert len({row.path for row in manifest.rows}) == 44_745
    assert SOURCE.images_per_modality["sysu_mm01"] == 20_284 + 1_974

    test = as_records(manifest.of("test"))
    permutations = read_permutations(Path(OFFICIAL) / "rand_perm_cam.mat")
    for search, shots, expected in (
        ("all", 1, 301),
        ("all", 10, 3_010),
        ("indoor", 1, 112),
        ("indoor", 10, 1_120),
    ):
        for made in (
            protocol(search, shots),
            protocol(search, shots, "official", permutations),
        ):
            trials = made.trials(test)
            assert len(trials) == 10
            assert {len(query) for query, _ in trials} == {3_803}
            assert {len(np.unique(gallery)) for _, gallery in trials} == {expected}
            assert made.published_gallery == expected
    chance = evaluate_chance(test, [protocol("all"), protocol("indoor")])
    assert chance["sysu_mm01_all_1shot_agw"]["num_valid_queries"] == 3_803
    assert chance["sysu_mm01_indoor_1shot_agw"]["num_valid_queries"] == 2_208
