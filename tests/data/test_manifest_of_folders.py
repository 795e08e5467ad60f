"""A manifest of folders: who is where, and who is drawn for the test."""

import os

import pytest

from mbn_jax.data.checks import check_rows
from mbn_jax.data.findings import Findings
from mbn_jax.data.manifest import Manifest, find_rows
from mbn_jax.errors import InputError

from . import own_images


@pytest.fixture
def folders(tmp_path):
    return own_images.write_folders(tmp_path)


def test_every_image_is_a_row_with_the_labels_of_its_folders(folders, tmp_path):
    camera = tmp_path / "visible/person 0/back door"
    camera.mkdir()
    (camera / "9.PNG").write_bytes(own_images.encode(0))
    (tmp_path / "visible/person 0/Thumbs.db").write_bytes(b"")
    (tmp_path / "visible/person 0/._0.png").write_bytes(b"")
    (tmp_path / "visible/person 0/folder.png").mkdir()
    (tmp_path / "visible/.thumbs").mkdir()
    (tmp_path / "visible/.thumbs/0.png").write_bytes(own_images.encode(0))
    rows = find_rows(folders, tmp_path)
    assert len(rows) == 6 * 2 * 2 + 1
    for row in rows:
        modality, identity, *rest = row.path.split("/")
        assert (row.modality, row.identity) == (modality, identity)
        assert row.camera == (rest[0] if len(rest) == 2 else modality)
        assert (tmp_path / row.path).is_file()


def test_folders_that_are_links_are_followed(folders, tmp_path):
    before = find_rows(folders, tmp_path)
    (tmp_path / "visible/person 0").rename(tmp_path / "elsewhere")
    (tmp_path / "visible/person 0").symlink_to(tmp_path / "elsewhere")
    assert find_rows(folders, tmp_path) == before
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "visible")
    assert find_rows(folders, tmp_path) == before


def test_rows_of_folders_are_a_sound_manifest(folders, tmp_path):
    findings = Findings()
    rows = find_rows(folders, tmp_path, val=0.2)
    check_rows(Manifest(rows=rows, root=tmp_path), findings)
    assert not findings.problems
    of = {
        s: {r.identity for r in rows if r.split == s} for s in ("train", "val", "test")
    }
    assert {split: len(people) for split, people in of.items()} == {
        "train": 3,
        "val": 1,
        "test": 2,
    }


def test_identities_that_lack_a_modality_are_trained_on(folders, tmp_path):
    for number in range(4):
        for image in (tmp_path / f"infrared/person {number}").iterdir():
            image.unlink()
    for seed in range(10):
        rows = find_rows(folders, tmp_path, test=0.1, seed=seed)
        (tested,) = {row.identity for row in rows if row.split == "test"}
        assert tested in ("person 4", "person 5")


def test_the_draw_is_a_function_of_the_seed(folders, tmp_path):
    def tested(seed):
        rows = find_rows(folders, tmp_path, seed=seed)
        return tuple(sorted({row.identity for row in rows if row.split == "test"}))

    assert tested(1) == tested(1)
    assert len({tested(seed) for seed in range(10)}) > 1


def test_folders_that_cannot_be_used_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="1 folder is given, but two modalities"):
        find_rows({"visible": folders["visible"]}, tmp_path)
    with pytest.raises(InputError, match="One folder is given for two modalities"):
        find_rows({**folders, "thermal": tmp_path / "x" / "../visible"}, tmp_path)
    with pytest.raises(InputError, match="absent is not a folder; give the folder of"):
        find_rows({**folders, "thermal": tmp_path / "absent"}, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no image .*IDENTITY/IMAGE"):
        find_rows({**folders, "thermal": tmp_path / "empty"}, tmp_path)
    with pytest.raises(InputError, match="6 of 6 identities have images in every"):
        find_rows(folders, tmp_path, test=1.0)
    with pytest.raises(InputError, match="identities for val is nan; give one from 0"):
        find_rows(folders, tmp_path, val=float("nan"))
    odd = tmp_path / "visible/person 0" / os.fsdecode(b"\xff.png")
    odd.write_bytes(own_images.encode(0))
    with pytest.raises(InputError, match=r"The name of .*udcff\.png' is not UTF-8"):
        find_rows(folders, tmp_path)
    odd.unlink()
    (tmp_path / "visible/loose.png").write_bytes(own_images.encode(0))
    with pytest.raises(InputError, match=r"loose\.png is not in the folder of an ide"):
        find_rows(folders, tmp_path)
