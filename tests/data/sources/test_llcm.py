"""LLCM: training by lists, test by folders."""

import pytest

from .. import trees


@pytest.fixture
def root(tmp_path):
    return trees.write_llcm(tmp_path / "LLCM", images=1)


def test_published_numbers_are_compared(root):
    counts = trees.scan("llcm", root).findings.counts
    assert {count.what: count.expected for count in counts} == {
        "train identities": 713,
        "train visible images": 16_946,
        "train near-infrared images": 13_975,
        "test identities": 351,
        "test visible images": 8_680,
        "test near-infrared images": 7_166,
    }


def test_training_rows_are_the_lists_in_their_order(root):
    lines = [
        line
        for index in ("train_vis", "train_nir")
        for line in (root / f"idx/{index}.txt").read_text().splitlines()
    ]
    train = trees.scan("llcm", root).manifests["llcm"].of("train")
    assert [row.path for row in train] == [line.split()[0] for line in lines]


def test_test_rows_are_the_folders_by_identity_camera_and_modality(root):
    def key(path):
        folder, camera, identity, _ = path.split("/")
        return int(identity), camera, folder == "test_nir", path

    paths = [path.relative_to(root).as_posix() for path in root.glob("test_*/*/*/*")]
    test = trees.scan("llcm", root).manifests["llcm"].of("test")
    assert [row.path for row in test] == sorted(paths, key=key)
    assert {int(row.identity) for row in test} == {*trees.llcm_identities()["test"]}


def test_test_images_come_from_the_folders_even_if_unlisted(root):
    new = "test_vis/cam1/0003/new.jpg"
    trees.add_image(root, new)
    found = trees.scan("llcm", root)
    assert not found.findings.problems
    assert new in [row.path for row in found.manifests["llcm"].of("test")]
    (told,) = found.findings.warnings
    assert (
        f"{root / new} is not in {root}/idx/test_vis.txt, but is used" in told.sentence
    )


def test_missing_list_of_test_leaves_its_images_out_and_names_both(root):
    (root / "idx/test_id.txt").unlink()
    found = trees.scan("llcm", root)
    assert len(found.left_out) == 3 * (9 + 8)
    for path, told in zip(found.left_out, found.findings.warnings, strict=True):
        assert f"{root / path} is of identity " in told.sentence
        assert f"which is not in {root}/idx/test_id.txt" in told.sentence


def test_absent_folder_is_as_good_as_the_empty_one(root):
    (root / "test_nir/cam3").rmdir()
    assert not trees.scan("llcm", root).findings.problems
