"""SYSU-MM01: what is read from its folders, and what is said of broken ones."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mbn_jax.data.datasets import load_split, training_split
from mbn_jax.data.pipeline import load_images
from mbn_jax.data.preparation import prepare_data
from mbn_jax.data.sysu_mm01.tree import scan
from mbn_jax.errors import InputError
from mbn_jax.evaluation import evaluate_chance, read_permutations, sysu_mm01

from . import trees

OFFICIAL = os.environ.get("SYSU_MM01_EXP")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trees.write_sysu_mm01(tmp_path_factory.mktemp("whole") / "SYSU-MM01")


@pytest.fixture(scope="module")
def data_dir(whole, tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    prepare_data("sysu_mm01", whole, directory)
    return directory


@pytest.fixture
def root(whole, tmp_path):
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "SYSU-MM01"))


def sentences(findings):
    return "\n".join(finding.sentence for finding in findings)


def test_whole_tree_has_no_problem(whole):
    tree = scan(whole)
    assert not tree.problems
    assert not tree.warnings
    sizes = {split: len(records) for split, records in tree.splits.items()}
    # Four, two and three identities with three images of each in six or three cameras.
    assert sizes == {"train": 4 * 6 * 3, "val": 2 * 3 * 3, "test": 3 * 6 * 3}


def test_galleries_and_what_else_belongs_to_it_are_expected(root):
    trees.write_rand_perm_cam(root)
    (root / "exp/train_id.mat").write_bytes(b"")
    assert not scan(root).warnings


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_records_are_in_the_order_of_identity_camera_and_file(data_dir, whole, split):
    records = load_split("sysu_mm01", split, data_dir)
    names = [
        f"{path.parts[-3]}/{path.parts[-2]}/{path.name}"
        for path in whole.glob("cam*/*/*.jpg")
        if int(path.parts[-2]) in trees.sysu_mm01_identities()[split]
    ]
    assert records.name.tolist() == sorted(
        names, key=lambda name: (name.split("/")[1], name)
    )
    for i, name in enumerate(records.name):
        camera, identity, _ = name.split("/")
        assert f"cam{records.camera[i]}" == camera
        assert f"{records.identity[i]:04d}" == identity
        assert records.modality[i] == (camera in ("cam3", "cam6"))


def test_prepared_images_are_the_files_byte_by_byte(data_dir, whole):
    split = load_split("sysu_mm01", "test", data_dir)
    for i, name in enumerate(split.name):
        assert split.encoded_image(i) == (whole / name).read_bytes()


def test_one_channel_becomes_three(data_dir):
    split = load_split("sysu_mm01", "test", data_dir)
    grey = [i for i, n in enumerate(split.name) if n.startswith("cam3") and "1." in n]
    images = load_images(split, np.array(grey), (16, 8))
    assert images.shape[3] == 3
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


def test_training_is_on_train_and_val_in_this_order(data_dir):
    assert training_split("sysu_mm01") == "train+val"
    train, val, both = (
        load_split("sysu_mm01", s, data_dir) for s in ("train", "val", "train+val")
    )
    assert both.name.tolist() == train.name.tolist() + val.name.tolist()
    last = len(both) - 1
    assert both.encoded_image(last) == val.encoded_image(len(val) - 1)
    assert both.encoded_image(0) == train.encoded_image(0)


def remove_folder(name):
    return lambda root: shutil.rmtree(root / name)


def remove_file(name):
    return lambda root: (root / name).unlink()


def remove_identity(root):
    for folder in root.glob("cam*/0010"):
        shutil.rmtree(folder)


BROKEN = {
    "camera": (remove_folder("cam2"), r"folder .*cam2 is missing; copy"),
    "list": (remove_file("exp/val_id.txt"), r"file .*val_id\.txt is missing; copy"),
    "absent identity": (remove_identity, "Identity 10 is listed for test, but has no"),
    "identity in two lists": (
        lambda root: trees.edit(root / "exp/test_id.txt", "6,", "6,18,"),
        r"Identity 18 is in .*train_id\.txt and in .*test_id\.txt",
    ),
    "identity listed twice": (
        lambda root: trees.edit(root / "exp/test_id.txt", "6,", "6,6,"),
        r"test_id\.txt lists identity 6 twice",
    ),
    "no integer": (
        lambda root: trees.edit(root / "exp/test_id.txt", "6,", "6,x7,"),
        r"test_id\.txt holds 'x7' where the number",
    ),
    "empty list": (
        lambda root: (root / "exp/test_id.txt").write_text("\n"),
        r"test_id\.txt lists no identity",
    ),
}


def test_missing_list_and_empty_image_of_it_are_told_in_one_run(root, tmp_path, capsys):
    (root / "exp/val_id.txt").unlink()
    image = root / "cam4/0034/0002.jpg"  # of val
    image.write_bytes(b"")
    with pytest.raises(InputError):
        prepare_data("sysu_mm01", root, tmp_path / "data", check_only=True)
    told = capsys.readouterr().err
    assert f"problem: The file {root}/exp/val_id.txt is missing" in told
    assert f"warning: The image {image} is empty; it is in no split" in told


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tree_is_described(root, case):
    breaks, pattern = BROKEN[case]
    breaks(root)
    assert re.search(pattern, sentences(scan(root).problems))


def test_everything_missing_is_named(root):
    names = ["cam1", "cam6", "exp/train_id.txt", "exp/test_id.txt"]
    for name in names:
        path = root / name
        (shutil.rmtree if path.is_dir() else os.unlink)(path)
    problems = [p.sentence for p in scan(root).problems]
    for name in names:
        assert any(str(root / name) in problem for problem in problems)


def test_unexpected_things_are_left_out_with_a_warning(root):
    before = {split: len(records) for split, records in scan(root).splits.items()}
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
    tree = scan(root)
    assert not tree.problems
    assert {split: len(records) for split, records in tree.splits.items()} == before
    for name in ["cam7", "cam1/6", *strange[2:], "cam1/0006/0009.jpg"]:
        assert f"{root / name}'" in sentences(tree.warnings)


def test_identities_in_no_list_are_left_out_in_one_sentence(root):
    trees.add_image(root, "cam1/0500/0001.jpg")
    trees.add_image(root, "cam4/0501/0001.jpg")
    (warning,) = scan(root).warnings
    assert "2 images of 2 identities (500, 501)" in warning.sentence


def test_damaged_image_of_an_unlisted_identity_does_not_stop(root, tmp_path, capsys):
    trees.truncate(trees.add_image(root, "cam1/0500/0001.jpg"))
    before = scan(root).splits["test"].name.tolist()
    prepare_data("sysu_mm01", root, tmp_path / "data")
    told = capsys.readouterr().err
    assert f"warning: The image {root}/cam1/0500/0001.jpg ends too early" in told
    assert "problem: " not in told
    prepared = load_split("sysu_mm01", "test", tmp_path / "data")
    assert prepared.name.tolist() == before


def warnings_of(root, kind):
    return [w.sentence for w in scan(root).warnings if w.kind == kind]


GAPS = "gaps in the numbers of images"
EMPTY = "empty folders"
UNLIKE = "folders that differ from rand_perm_cam.mat"


def remove_images(root, *names):
    for name in names:
        (root / name).unlink()


def test_gap_in_the_numbers_of_images_is_named(root):
    remove_images(root, "cam1/0006/0002.jpg", "cam3/0018/0001.jpg")
    first, second = scan(root).warnings
    assert f"images in {root}/cam1/0006 have gaps (missing: 2); copy" in first.sentence
    assert f"images in {root}/cam3/0018 have gaps (missing: 1); copy" in second.sentence
    assert {first.kind, second.kind} == {GAPS}


def test_only_the_first_numbers_of_a_wide_gap_are_named(root):
    trees.add_image(root, "cam1/0006/0050.jpg")
    (told,) = warnings_of(root, GAPS)
    assert "(missing: 4, 5, 6, 7, 8, …)" in told


def test_numbers_that_start_at_0_are_a_gap(root):
    trees.add_image(root, "cam1/0006/0000.jpg")
    (told,) = warnings_of(root, GAPS)
    assert "(missing: 4)" in told


def test_empty_folder_of_an_identity_is_named(root):
    remove_images(root, *(f"cam1/0006/000{n}.jpg" for n in (1, 2, 3)))
    (told,) = scan(root).warnings
    assert f"folder {root}/cam1/0006 holds no image; copy it" in told.sentence
    assert told.kind == EMPTY


def lose_a_gap(root):
    remove_images(root, "cam1/0006/0002.jpg")


def lose_the_end(root):
    remove_images(root, "cam1/0006/0003.jpg", "cam1/0006/0002.jpg")


def lose_all(root):
    remove_images(root, *(f"cam1/0006/000{n}.jpg" for n in (1, 2, 3)))


def lose_the_folder(root):
    shutil.rmtree(root / "cam1/0006")


def gain_one(root):
    trees.add_image(root, "cam1/0006/0004.jpg")


def gain_a_folder(root):
    trees.add_image(root, "cam1/0034/0001.jpg")  # of val, whom it did not see


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose_a_gap, "cam1/0006 is 2 and should be 3 by {mat} (missing: 2); copy"),
        (lose_the_end, "cam1/0006 is 1 and should be 3 by {mat} (missing: 2, 3); copy"),
        (lose_all, "cam1/0006 is 0 and should be 3 by {mat} (missing: 1, 2, 3); copy"),
        (lose_the_folder, "cam1/0006 is missing ({mat} has 3 of its images); copy"),
        (gain_one, "cam1/0006 is 4 and should be 3 by {mat} (unknown: 4); copy"),
        (gain_a_folder, "cam1/0034 is 1 and should be 0 by {mat} (unknown: 1); copy"),
    ],
)
def test_official_galleries_tell_once_what_a_folder_lacks(root, change, words):
    mat = trees.write_rand_perm_cam(root)
    change(root)
    (told,) = scan(root).warnings
    assert words.format(mat=mat) in told.sentence
    assert told.kind == UNLIKE


def test_official_galleries_do_not_repeat_problems(root):
    trees.write_rand_perm_cam(root)
    shutil.rmtree(root / "cam2")
    remove_identity(root)
    assert not scan(root).warnings


def test_official_galleries_count_everyone_when_a_list_is_missing(root):
    trees.write_rand_perm_cam(root)
    (root / "exp/val_id.txt").unlink()
    shutil.rmtree(root / "cam4/0034")
    (told,) = warnings_of(root, UNLIKE)
    assert f"{root}/cam4/0034 is missing" in told


def test_folders_of_unlisted_identities_may_be_absent(root):
    trees.add_image(root, "cam1/0500/0001.jpg")
    trees.write_rand_perm_cam(root)
    shutil.rmtree(root / "cam1/0500")
    assert not scan(root).warnings


def test_empty_folder_is_right_where_the_official_galleries_have_none(root):
    trees.write_rand_perm_cam(root)
    (root / "cam1/0034").mkdir()
    assert not scan(root).warnings


@pytest.mark.parametrize("content", [b"", b"page not found", None])
def test_unreadable_official_galleries_are_a_warning(root, content):
    path = root / "exp/rand_perm_cam.mat"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    tree = scan(root)
    assert not tree.problems
    (told,) = tree.warnings
    assert "cannot be counted by rand_perm_cam.mat: " in told.sentence
    assert str(path) in told.sentence


def test_identity_of_one_modality_is_a_warning(root):
    for camera in (3, 6):
        shutil.rmtree(root / f"cam{camera}/0018")
    tree = scan(root)
    assert not tree.problems
    assert "Identity 18 of train has no infrared image" in sentences(tree.warnings)


def test_folder_above_or_below_is_told_from_the_right_one(whole):
    with pytest.raises(InputError, match=f"{whole} looks right"):
        scan(whole.parent)
    with pytest.raises(InputError, match=f"{whole} looks right"):
        scan(whole / "cam1")


def test_other_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds none of cam1, .*exp"):
        scan(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        scan(tmp_path / "absent")


@pytest.mark.skipif(OFFICIAL is None, reason="SYSU_MM01_EXP is not set")
def test_true_shape_has_the_published_numbers(tmp_path):
    root = trees.write_true_sysu_mm01(tmp_path / "SYSU-MM01", OFFICIAL)
    for galleries in (False, True):
        if galleries:
            shutil.copy(Path(OFFICIAL) / "rand_perm_cam.mat", root / "exp")
        tree = scan(root)
        assert not tree.problems
        assert [w.kind for w in tree.warnings] == ["unlisted identities"]
    (warning,) = tree.warnings
    assert "1,118 images of 22 identities" in warning.sentence
    assert [count for count in tree.counts if count.expected != count.found] == []

    def sizes(*splits):
        modality = np.concatenate([tree.splits[split].modality for split in splits])
        return np.bincount(modality).tolist()

    assert sizes("train") == [20_284, 9_929]
    assert sizes("val") == [1_974, 1_980]
    assert sizes("train", "val") == [22_258, 11_909]
    assert sizes("test") == [6_775, 3_803]
    assert len(tree.names) == 44_745
    assert len(tree.left_out) == 1_118

    test = tree.splits["test"]
    permutations = read_permutations(Path(OFFICIAL) / "rand_perm_cam.mat")
    for search, shots, expected in (
        ("all", 1, 301),
        ("all", 10, 3_010),
        ("indoor", 1, 112),
        ("indoor", 10, 1_120),
    ):
        for protocol in (
            sysu_mm01(search, shots),
            sysu_mm01(search, shots, "official", permutations),
        ):
            trials = protocol.trials(test)
            assert len(trials) == 10
            assert {len(query) for query, _ in trials} == {3_803}
            assert {len(np.unique(gallery)) for _, gallery in trials} == {expected}
            assert protocol.published_gallery == expected
    chance = evaluate_chance(test, [sysu_mm01("all"), sysu_mm01("indoor")])
    assert chance["sysu_mm01_all_1shot_agw"]["num_valid_queries"] == 3_803
    assert chance["sysu_mm01_indoor_1shot_agw"]["num_valid_queries"] == 2_208
