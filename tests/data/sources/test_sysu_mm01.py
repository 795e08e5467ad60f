"""SYSU-MM01: lists of identities, numbers of images, and the official galleries."""

import os
import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from mbn_jax.data.dataset import load_split
from mbn_jax.data.preparation import prepare_data
from mbn_jax.data.sources.sysu_mm01 import SOURCE, protocol
from mbn_jax.evaluation import evaluate_chance
from mbn_jax.evaluation.records import Records

from .. import trees

OFFICIAL = os.environ.get("SYSU_MM01_EXP")


@pytest.fixture
def root(tmp_path):
    return trees.write_sysu_mm01(tmp_path / "SYSU-MM01")


def scan(root):
    return trees.scan("sysu_mm01", root)


def warnings(root):
    return [warning.sentence for warning in scan(root).findings.warnings]


def test_rows_are_in_the_order_of_identity_camera_and_file(root):
    assert SOURCE.training == "train+val"
    manifest = scan(root).manifests["sysu_mm01"]
    for split, identities in trees.sysu_mm01_identities().items():
        folders = [f"cam{c}/{i:04d}" for i in identities for c in range(1, 7)]
        assert [row.path for row in manifest.of(split)] == [
            path.relative_to(root).as_posix()
            for folder in folders
            for path in sorted((root / folder).glob("*.jpg"))
        ]


def test_identities_in_no_list_are_left_out_in_one_sentence(root, tmp_path, capsys):
    trees.truncate(trees.add_image(root, "cam1/0500/0001.jpg"))
    trees.add_image(root, "cam4/0501/0001.jpg")
    found = scan(root)
    (told,) = warnings(root)
    assert "2 images of 2 identities (500, 501)" in told
    assert found.left_out == ["cam1/0500/0001.jpg", "cam4/0501/0001.jpg"]
    # The damaged one of them does not stop the work.
    prepare_data("sysu_mm01", tmp_path / "data", folders={"manual_dir": [root]})
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "0500/" in line]
    assert line.startswith(f"warning: The image {root / found.left_out[0]} ends too")
    assert "; it is in no split" in line
    rows = found.manifests["sysu_mm01"].rows
    prepared = load_split("sysu_mm01", "train+val", tmp_path / "data")
    assert prepared.name.tolist() == [row.path for row in rows if row.split != "test"]


remove, add = trees.remove_matching, trees.add_image
# What is changed in a folder of camera 1, what is then there, how many should be, and
# what is said of it without the official galleries, and with them.
FOLDERS = [
    (remove, "0006/0002.jpg", "has 2 images", 3, "missing: 2", "missing: 2"),
    (remove, "0006/000[23].jpg", "has 1 image", 3, "", "missing: 2, 3"),
    (remove, "0006/*", "has 0 images", 3, "it is empty", "missing: 1, 2, 3"),
    (remove, "0006", "is missing", 3, "", "missing: 1, 2, 3"),
    (add, "0006/0000.jpg", "has 4 images", 3, "missing: 4; unknown: 0", "unknown: 0"),
    (add, "0006/0004.jpg", "has 4 images", 3, "", "unknown: 4"),
    (
        add,
        "0006/0050.jpg",
        "has 4 images",
        3,
        "missing: 4, 5, 6, 7, 8, …",
        "unknown: 50",
    ),
    # Of val, whom this camera did not see.
    (add, "0034/0001.jpg", "has 1 image", 0, "", "unknown: 1"),
]


@pytest.mark.parametrize(
    ("change", "name", "has", "should", "without_galleries", "with_galleries"), FOLDERS
)
def test_folder_without_exactly_its_images_is_told_once(
    root, change, name, has, should, without_galleries, with_galleries
):
    mat = trees.write_rand_perm_cam(root)
    change(root, f"cam1/{name}")
    folder = f"The folder {root}/cam1/{name[:4]} {has}"
    copy = "; copy it from the archive of the data set."
    by_file = f" and should have {should} by {mat}"
    assert warnings(root) == [f"{folder}{by_file} ({with_galleries}){copy}"]
    mat.unlink()
    expected = [f"{folder} ({without_galleries}){copy}"] if without_galleries else []
    assert warnings(root) == expected


def test_official_galleries_do_not_repeat_problems(root):
    trees.write_rand_perm_cam(root)
    trees.remove_matching(root, "cam2")
    trees.remove_matching(root, "cam*/0010")
    assert not warnings(root)


def test_images_of_a_missing_list_are_checked_and_counted(root):
    trees.write_rand_perm_cam(root)
    (root / "exp/val_id.txt").unlink()
    shutil.rmtree(root / "cam4/0034")
    found = scan(root)
    assert len(found.left_out) == (2 * 3 - 1) * 3
    told = trees.sentences(found.findings.warnings, "folders that are not complete")
    assert re.fullmatch(f"The folder {root}/cam4/0034 is missing .*", told)


def test_nothing_is_said_of_what_the_galleries_do_not_ask_for(root):
    trees.add_image(root, "cam1/0500/0001.jpg")
    trees.write_rand_perm_cam(root)
    shutil.rmtree(root / "cam1/0500")
    (root / "cam1/0034").mkdir()
    # The lists as they come, once more.
    (root / "exp/train_id.mat").touch()
    assert not warnings(root)


def test_identity_of_one_modality_is_a_warning(root):
    trees.remove_matching(root, "cam[36]/0018")
    assert not scan(root).findings.problems
    (told,) = warnings(root)
    assert "Identity 18 of train has no infrared image" in told


@pytest.mark.parametrize("content", [b"", b"page not found", None])
def test_unreadable_official_galleries_are_a_warning(root, content):
    path = root / "exp/rand_perm_cam.mat"
    path.mkdir() if content is None else path.write_bytes(content)
    assert not scan(root).findings.problems
    (told,) = warnings(root)
    assert "cannot be checked with rand_perm_cam.mat: " in told
    assert str(path) in told


@pytest.mark.skipif(OFFICIAL is None, reason="SYSU_MM01_EXP is not set")
def test_true_shape_has_the_published_numbers(tmp_path):
    root = trees.write_true_sysu_mm01(tmp_path / "SYSU-MM01", OFFICIAL)
    without_galleries = scan(root)
    galleries = shutil.copy(Path(OFFICIAL) / "rand_perm_cam.mat", root / "exp")
    for found in (without_galleries, scan(root)):
        assert not found.findings.problems
        (told,) = found.findings.warnings
        assert "1,118 images of 22 identities" in told.sentence
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

    rows = manifest.of("test")
    test = Records(
        identity=np.array([int(row.identity) for row in rows]),
        camera=np.array([int(row.camera) for row in rows]),
        modality=np.array([int(row.modality == "infrared") for row in rows]),
        name=np.array([row.path for row in rows]),
    )
    pairs = {"all": 301, "indoor": 112}
    for search, shots, drawn in product(pairs, (1, 10), ((), ("official", galleries))):
        made = protocol(search, shots, *drawn)
        assert made.published_gallery == pairs[search] * shots
        trials = made.trials(test)
        assert len(trials) == 10
        for query, gallery in trials:
            assert len(query) == 3_803
            assert len(np.unique(gallery)) == pairs[search] * shots
    chance = evaluate_chance(test, [protocol("all"), protocol("indoor")])
    assert chance["sysu_mm01_all_1shot_agw"]["num_valid_queries"] == 3_803
    assert chance["sysu_mm01_indoor_1shot_agw"]["num_valid_queries"] == 2_208
