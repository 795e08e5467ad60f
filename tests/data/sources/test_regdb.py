"""RegDB: ten splits by their index files, and images whose names say who they show."""

import re
import shutil

import pytest

from .. import trees


@pytest.fixture
def root(tmp_path):
    return trees.write_regdb(tmp_path / "RegDB")


def problems(root):
    return trees.sentences(trees.scan("regdb", root).findings.problems)


def lines_of(index):
    return [line.split() for line in index.read_text().splitlines()]


def test_every_split_is_its_index_files_in_their_order(root):
    found = trees.scan("regdb", root)
    assert list(found.manifests) == [f"regdb/split{n}" for n in range(1, 11)]
    halves = set()
    for number, manifest in enumerate(found.manifests.values(), start=1):
        for split in ("train", "test"):
            visible = lines_of(root / f"idx/{split}_visible_{number}.txt")
            thermal = lines_of(root / f"idx/{split}_thermal_{number}.txt")
            paths = [path for path, _ in visible + thermal]
            assert [row.path for row in manifest.of(split)] == paths
        halves.add(frozenset(row.identity for row in manifest.of("train")))
    assert len(halves) == 10


def test_only_the_splits_asked_for_are_read(root):
    (root / "idx/test_thermal_10.txt").unlink()
    found = trees.scan("regdb/split3", root)
    assert list(found.manifests) == ["regdb/split3"]
    assert not found.findings.problems
    # A split trains or tests on everyone, so that none of its images are unlisted.
    assert not found.findings.warnings
    assert not found.left_out


def test_complete_numbers_are_the_published_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "encode", lambda name, **_: b"not looked at")
    root = trees.write_regdb(tmp_path / "RegDB", identities=412, images=10)
    found = trees.scan("regdb", root).findings
    assert not found.problems
    assert [c for c in found.counts if c.expected != c.found] == []


def test_contradicting_labels_are_told_once_for_each_pair(root):
    index = root / "idx/train_thermal_1.txt"
    reversed_labels = [f"{path} {3 - int(label)}\n" for path, label in lines_of(index)]
    index.write_text("".join(reversed_labels))
    # Four identities, each of which contradicts by its label and as its label's owner.
    assert len(problems(root).splitlines()) == 8


def test_identity_in_both_parts_of_a_split_is_a_problem(root):
    shutil.copy(root / "idx/train_visible_1.txt", root / "idx/test_visible_1.txt")
    words = r"Identity \d+ is in training of split 1 and in testing of split 1, .* copy"
    assert re.search(words, problems(root))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("_5.bmp", "_8.bmp", "is named as an image of identity 8 (v), but is in"),
        ("_v_", "_t_", "is named as an image of identity 5 (t), but is in"),
    ],
)
def test_image_in_the_folder_of_others_is_a_problem(root, old, new, words):
    (path,) = root.glob("Visible/5/*_00101_5.bmp")
    moved = path.rename(path.with_name(path.name.replace(old, new)))
    assert f"The file {moved} {words} another folder; copy both" in problems(root)


def test_identity_of_one_modality_is_a_warning(root):
    trees.edit(root / "idx/train_thermal_1.txt", "(.* 0\n)+", "")
    found = trees.scan("regdb", root).findings
    assert not found.problems
    told = trees.sentences(found.warnings)
    assert re.search(r"Identity \d+ of split1/train has no infrared image", told)
