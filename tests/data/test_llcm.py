"""LLCM: training by lists, test by folders, and what is said of broken ones."""

import re
import shutil
from pathlib import Path

import pytest

from mbn_jax.errors import InputError

from . import trees


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trees.write_llcm(tmp_path_factory.mktemp("whole") / "LLCM", images=1)


@pytest.fixture
def root(whole, tmp_path):
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "LLCM"))


def scan(root):
    return trees.scan("llcm", root)


def problems(root):
    return trees.sentences(scan(root).findings.problems)


def warnings(root):
    return trees.sentences(scan(root).findings.warnings)


def lines_of(root, index):
    return (root / f"idx/{index}.txt").read_text().splitlines()


def test_whole_tree_has_no_problem(whole):
    found = scan(whole)
    assert not found.findings.problems
    assert not found.findings.warnings
    assert not found.left_out
    # Nine cameras see everyone in both modalities, but test_nir/cam3 is empty.
    assert found.manifests["llcm"].counts() == {
        "train": {"visible": 4 * 9, "infrared": 4 * 9},
        "test": {"visible": 3 * 9, "infrared": 3 * 8},
    }
    expected = {count.what: count.expected for count in found.findings.counts}
    assert expected == {
        "train identities": 713,
        "train visible images": 16_946,
        "train near-infrared images": 13_975,
        "test identities": 351,
        "test visible images": 8_680,
        "test near-infrared images": 7_166,
    }


def test_training_rows_are_the_lists_and_test_rows_the_folders_in_order(whole):
    found = scan(whole)
    train, test = (trees.rows_of(found, "llcm", split) for split in ("train", "test"))
    assert [row.path for row in train] == [
        line.split()[0]
        for index in ("train_vis", "train_nir")
        for line in lines_of(whole, index)
    ]
    paths = [path.relative_to(whole).as_posix() for path in whole.glob("test_*/*/*/*")]

    def key(path):
        folder, camera, identity, _ = path.split("/")
        return int(identity), camera, folder == "test_nir", path

    assert [row.path for row in test] == sorted(paths, key=key)
    assert {int(row.identity) for row in test} == {*trees.llcm_identities()["test"]}
    trees.assert_rows_follow_paths(
        [*train, *test],
        r"(test_)?(?P<part>vis|nir)/cam(?P<camera>\d)/(?P<identity>\d{4})/.*",
        lambda said: {"vis": "visible", "nir": "infrared"}[said["part"]],
    )


def test_absent_folder_is_as_good_as_the_empty_one(root):
    (root / "test_nir/cam3").rmdir()
    assert not problems(root)


def swap_labels(root):
    """Near-infrared training images have their labels in another order."""
    lines = [line.split() for line in lines_of(root, "train_nir")]
    (root / "idx/train_nir.txt").write_text(
        "".join(f"{name} {3 - int(label)}\n" for name, label in lines)
    )


def remove_identity(root):
    for folder in root.glob("test_*/cam*/0005"):
        shutil.rmtree(folder)


BROKEN = {
    "folder": (
        lambda root: shutil.rmtree(root / "nir"),
        r"folder .*/nir is missing; copy",
    ),
    "camera": (
        lambda root: shutil.rmtree(root / "vis/cam4"),
        r"folder .*vis/cam4/? is missing; copy",
    ),
    "list": (
        lambda root: (root / "idx/test_id.txt").unlink(),
        r"file .*idx/test_id\.txt is missing; copy",
    ),
    "training image": (
        lambda root: trees.remove_matching(root, "vis/cam4/0009/*"),
        r"train_vis\.txt, line \d+: there is no .*vis/cam4/0009/.*jpg; copy",
    ),
    "test image": (
        lambda root: trees.remove_matching(root, "test_nir/cam4/0003/*"),
        r"test_nir\.txt, line \d+: there is no .*test_nir/cam4/0003/.*jpg; copy",
    ),
    "malformed line": (
        lambda root: trees.edit(root / "idx/train_vis.txt", "vis/cam1", "vis/camera1"),
        r"train_vis\.txt, line 1: .*is not a path of this part",
    ),
    "line of another part": (
        lambda root: trees.edit(root / "idx/train_vis.txt", "vis/cam1", "nir/cam1"),
        r"train_vis\.txt, line 1: .*is not a path of this part",
    ),
    "labels that differ by modality": (
        swap_labels,
        r"train_nir\.txt, line 1 gives identity \d+ the label 3, but"
        r" .*train_vis\.txt, line",
    ),
    "label of two identities": (
        lambda root: trees.edit(root / "idx/test_vis.txt", " 0\n", " 1\n"),
        r"test_vis\.txt, line \d+ gives identity \d+ the label",
    ),
    "absent identity": (remove_identity, "Identity 5 is listed for test, but has no"),
    "no integer": (
        lambda root: trees.edit(root / "idx/test_id.txt", "3,", "3;"),
        r"test_id\.txt holds '3;5' where the number",
    ),
    "identity in both splits": (
        lambda root: trees.edit(root / "idx/test_id.txt", "3,", "3,9,"),
        r"Identity 9 is in the training lists and in .*test_id\.txt",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tree_is_described(root, case):
    breaks, pattern = BROKEN[case]
    breaks(root)
    assert re.search(pattern, problems(root))


def test_cameras_of_a_missing_folder_are_not_listed_one_by_one(root):
    shutil.rmtree(root / "nir")
    told = trees.sentences(scan(root).findings.problems, "missing folders and files")
    assert told.count("\n") == 0


def test_what_no_list_has_is_left_out_with_a_warning(root):
    before = scan(root).manifests["llcm"].counts()
    unlisted = ["test_vis/cam1/0500/new.jpg", "vis/cam1/0009/new.jpg"]
    hidden = "test_vis/cam1/0003/._new.jpg"
    for name in [*unlisted, hidden]:
        trees.add_image(root, name)
    (root / "vis/cam10").mkdir()
    found = scan(root)
    assert not found.findings.problems
    assert found.manifests["llcm"].counts() == before
    assert sorted(found.left_out) == unlisted
    for name in [*unlisted, hidden, "vis/cam10"]:
        assert str(root / name) in trees.sentences(found.findings.warnings)


def test_test_images_come_from_the_folders_even_if_unlisted(root):
    trees.add_image(root, "test_vis/cam1/0003/new.jpg")
    found = scan(root)
    assert not found.findings.problems
    paths = [row.path for row in trees.rows_of(found, "llcm", "test")]
    assert "test_vis/cam1/0003/new.jpg" in paths
    assert "test_vis/cam1/0003/new.jpg is not in" in warnings(root)


def test_missing_list_of_test_leaves_its_images_out_and_names_both(root):
    (root / "idx/test_id.txt").unlink()
    found = scan(root)
    assert len(found.left_out) == 3 * (9 + 8)
    assert "which is not in" in trees.sentences(found.findings.warnings)


def test_folder_above_is_told_from_the_right_one(whole):
    with pytest.raises(InputError, match=f"{whole} looks right"):
        scan(whole.parent)
