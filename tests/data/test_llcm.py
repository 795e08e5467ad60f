"""LLCM: training by lists, test by folders, and what is said of broken ones."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mbn_jax.data.datasets import load_split
from mbn_jax.data.llcm.tree import scan
from mbn_jax.data.preparation import prepare_data
from mbn_jax.errors import InputError

from . import trees


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trees.write_llcm(tmp_path_factory.mktemp("whole") / "LLCM", images=1)


@pytest.fixture
def root(whole, tmp_path):
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "LLCM"))


def sentences(findings):
    return "\n".join(finding.sentence for finding in findings)


def lines_of(root, index):
    return (root / f"idx/{index}.txt").read_text().splitlines()


def test_whole_tree_has_no_problem(whole):
    tree = scan(whole)
    assert not tree.problems
    assert not tree.warnings
    # Nine cameras see everyone in both modalities, but test_nir/cam3 is empty.
    assert len(tree.splits["train"]) == 4 * 9 * 2
    assert len(tree.splits["test"]) == 3 * (9 + 8)
    test = tree.splits["test"]
    assert 3 not in test.camera[test.modality == 1]


def test_prepared_records_are_those_of_the_tree(whole, tmp_path):
    prepare_data("llcm", whole, tmp_path)
    train = load_split("llcm", "train", tmp_path)
    assert train.name.tolist() == [
        line.split()[0]
        for index in ("train_vis", "train_nir")
        for line in lines_of(whole, index)
    ]
    test = load_split("llcm", "test", tmp_path)
    order = list(zip(test.identity, test.camera, test.modality, strict=True))
    assert order == sorted(order)
    assert set(test.identity) == set(trees.llcm_identities()["test"])
    for split in (train, test):
        for i, name in enumerate(split.name):
            folder, camera, identity, _ = name.split("/")
            assert f"cam{split.camera[i]}" == camera
            assert f"{split.identity[i]:04d}" == identity
            assert split.modality[i] == folder.endswith("nir")
            assert split.encoded_image(i) == (whole / name).read_bytes()


def test_absent_folder_is_as_good_as_the_empty_one(root):
    (root / "test_nir/cam3").rmdir()
    assert not scan(root).problems


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
        r"folder .*vis/cam4 is missing; copy",
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


def test_missing_list_and_empty_image_of_it_are_told_in_one_run(root, tmp_path, capsys):
    (root / "idx/test_id.txt").unlink()
    (image,) = root.glob("test_vis/cam4/0005/*.jpg")
    image.write_bytes(b"")
    with pytest.raises(InputError):
        prepare_data("llcm", root, tmp_path / "data", check_only=True)
    told = capsys.readouterr().err
    assert f"problem: The file {root}/idx/test_id.txt is missing" in told
    assert f"warning: The image {image} is empty; it is in no split" in told


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tree_is_described(root, case):
    breaks, pattern = BROKEN[case]
    breaks(root)
    assert re.search(pattern, sentences(scan(root).problems))


def test_what_no_list_has_is_left_out_with_a_warning(root):
    before = {split: len(records) for split, records in scan(root).splits.items()}
    strange = [
        "vis/cam1/0009/new.jpg",
        "test_vis/cam1/0500/new.jpg",
        "test_vis/cam1/0003/._new.jpg",
    ]
    for name in strange:
        trees.add_image(root, name)
    (root / "vis/cam10").mkdir()
    tree = scan(root)
    assert not tree.problems
    assert {split: len(records) for split, records in tree.splits.items()} == before
    for name in [*strange, "vis/cam10"]:
        assert str(root / name) in sentences(tree.warnings)


def test_damaged_image_in_no_split_does_not_stop(root, tmp_path, capsys):
    names = ["vis/cam1/0009/new.jpg", "test_vis/cam1/0500/new.jpg"]
    for name in names:
        trees.truncate(trees.add_image(root, name))
    assert scan(root).left_out == tuple(names)
    prepare_data("llcm", root, tmp_path / "data")
    told = capsys.readouterr().err
    for name in names:
        assert f"warning: The image {root / name} ends too early" in told
    assert "problem: " not in told


def test_test_images_come_from_the_folders_even_if_unlisted(root):
    trees.add_image(root, "test_vis/cam1/0003/new.jpg")
    tree = scan(root)
    assert not tree.problems
    assert "test_vis/cam1/0003/new.jpg" in tree.splits["test"].name
    assert "test_vis/cam1/0003/new.jpg is not in" in sentences(tree.warnings)


def test_folder_above_is_told_from_the_right_one(whole):
    with pytest.raises(InputError, match=f"{whole} looks right"):
        scan(whole.parent)


def test_names_are_those_of_both_splits(whole):
    tree = scan(whole)
    assert len(tree.names) == sum(map(len, tree.splits.values()))
    assert np.unique(tree.names).size == len(tree.names)
