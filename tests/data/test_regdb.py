"""RegDB: ten splits by their index files, and what is said of broken ones."""

import re
import shutil
from pathlib import Path

import pytest

from mbn_jax.errors import InputError

from . import trees


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trees.write_regdb(tmp_path_factory.mktemp("whole") / "RegDB")


@pytest.fixture
def root(whole, tmp_path):
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "RegDB"))


def scan(root, dataset="regdb"):
    return trees.scan(dataset, root)


def problems(root):
    return trees.sentences(scan(root).findings.problems)


def index_names(root, number, split):
    return [
        line.split()[0]
        for modality in ("visible", "thermal")
        for line in (root / f"idx/{split}_{modality}_{number}.txt")
        .read_text()
        .splitlines()
    ]


def test_whole_tree_has_ten_splits_and_no_problem(whole):
    found = scan(whole)
    assert not found.findings.problems
    assert not found.findings.warnings
    assert list(found.manifests) == [f"regdb/split{n}" for n in range(1, 11)]
    halves = {
        frozenset(row.identity for row in manifest.of("train"))
        for manifest in found.manifests.values()
    }
    assert len(halves) == 10


def test_complete_numbers_are_the_published_ones(tmp_path):
    found = scan(trees.write_regdb(tmp_path / "RegDB", identities=412, images=10))
    assert not found.findings.problems
    assert [c for c in found.findings.counts if c.expected != c.found] == []


def test_split_is_its_index_files_in_their_order(whole):
    found = scan(whole, "regdb/split3")
    assert list(found.manifests) == ["regdb/split3"]
    for split in ("train", "test"):
        rows = trees.rows_of(found, "regdb/split3", split)
        assert [row.path for row in rows] == index_names(whole, 3, split)
        trees.assert_rows_follow_paths(
            rows,
            r"(?P<folder>Visible|Thermal)/(?P<identity>\d+)/.*",
            lambda said: {"Visible": "visible", "Thermal": "infrared"}[said["folder"]],
        )
        for row in rows:
            assert row.camera == ("1" if row.modality == "visible" else "2")


def in_index(old, new, index="train_visible_1"):
    return lambda root: trees.edit(root / f"idx/{index}.txt", old, new)


def first_line(root, index="train_visible_1"):
    return (root / f"idx/{index}.txt").read_text().splitlines()[0]


def another_label(root):
    """The first image of split 1 gets the label of another identity."""
    line = first_line(root)
    trees.edit(root / "idx/train_visible_1.txt", line, line[:-1] + "3")


def another_label_in_thermal(root):
    """Thermal images of split 1 have their labels in another order."""
    path = root / "idx/train_thermal_1.txt"
    lines = [line.split() for line in path.read_text().splitlines()]
    path.write_text("".join(f"{n} {3 - int(label)}\n" for n, label in lines))


def train_on_test(root):
    """The second index of split 1 is the first once more."""
    for modality in ("visible", "thermal"):
        shutil.copy(
            root / f"idx/train_{modality}_1.txt", root / f"idx/test_{modality}_1.txt"
        )


def repeat_a_line(root):
    line = first_line(root)
    trees.edit(root / "idx/train_visible_1.txt", line, f"{line}\n{line}")


def wrong_folder(root):
    (path,) = root.glob("Visible/5/*_00101_5.bmp")
    path.rename(path.with_name(path.name.replace("_5.bmp", "_8.bmp")))


def wrong_modality(root):
    (path,) = root.glob("Visible/5/*_00101_5.bmp")
    path.rename(path.with_name(path.name.replace("_v_", "_t_")))


BROKEN = {
    "folder": (
        lambda root: shutil.rmtree(root / "Thermal"),
        r"folder .*Thermal is missing; copy",
    ),
    "index": (
        lambda root: (root / "idx/test_thermal_10.txt").unlink(),
        r"test_thermal_10\.txt is missing; copy",
    ),
    "empty index": (
        lambda root: (root / "idx/test_thermal_10.txt").write_text(""),
        r"test_thermal_10\.txt is empty; copy",
    ),
    "image": (
        lambda root: trees.remove_matching(root, "Visible/5/*_00101_5.bmp"),
        r"idx/t\w+_visible_1\.txt, line \d+ and 9 other lines: there is no"
        r" .*_00101_5\.bmp; copy",
    ),
    "line without label": (
        in_index(" 0\n", "\n"),
        r"train_visible_1\.txt, line 1: 'Visible/.*bmp' is not a path",
    ),
    "label that is no number": (
        in_index(" 0\n", " zero\n"),
        r"train_visible_1\.txt, line 1: .*zero' is not a path",
    ),
    "line of the other modality": (
        in_index("Visible/", "Thermal/"),
        r"train_visible_1\.txt, line 1: .*is not a path of this part",
    ),
    "path out of the tree": (
        in_index("Visible/", "Visible/../Visible/"),
        r"train_visible_1\.txt, line 1: .*is not a path of this part",
    ),
    "line twice": (
        repeat_a_line,
        r"train_visible_1\.txt, line 2 lists .*, which .*line 1 lists, too",
    ),
    "label of two identities": (
        another_label,
        r"train_visible_1\.txt, line \d+ gives identity \d+ the label",
    ),
    "labels that differ by modality": (
        another_label_in_thermal,
        r"train_thermal_1\.txt, line 1 gives identity \d+ the label 3, but"
        r" .*train_visible_1\.txt, line 1 gives",
    ),
    "identity in both parts": (
        train_on_test,
        r"Identity \d+ is in training of split 1 and in testing of split 1",
    ),
    "file in another's folder": (
        wrong_folder,
        r"_00101_8\.bmp is named as an image of identity 8 \(v\), but lies in",
    ),
    "file of the other modality": (
        wrong_modality,
        r"_00101_5\.bmp is named as an image of identity 5 \(t\), but lies in",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tree_is_described(root, case):
    breaks, pattern = BROKEN[case]
    breaks(root)
    assert re.search(pattern, problems(root))


def test_contradicting_labels_are_told_once_for_each_pair(root):
    another_label_in_thermal(root)
    # Four identities, each of which contradicts by its label and as its label's owner.
    assert len(scan(root).findings.problems) <= 8


def test_only_the_splits_asked_for_are_read(root):
    (root / "idx/test_thermal_10.txt").unlink()
    found = scan(root, "regdb/split3")
    assert not found.findings.problems
    # A split trains or tests on everyone, so that none of its images are unlisted.
    assert not found.findings.warnings
    assert not found.left_out


def test_what_no_index_lists_is_left_out_with_a_warning(root):
    trees.add_image(root, "Thermal/5/male_back_t_99999_5.bmp")
    trees.add_image(root, "Thermal/five/male_back_t_99999_5.bmp")
    (root / "idx/test_visible_11.txt").write_text("")
    found = scan(root)
    assert not found.findings.problems
    assert found.left_out == ["Thermal/5/male_back_t_99999_5.bmp"]
    for name in (*found.left_out, "Thermal/five", "idx/test_visible_11.txt"):
        assert str(root / name) in trees.sentences(found.findings.warnings)


def test_identity_of_one_modality_is_a_warning(root):
    path = root / "idx/train_thermal_1.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.endswith(" 0\n")))
    assert re.search(
        r"Identity \d+ of split1/train has no infrared",
        trees.sentences(scan(root).findings.warnings),
    )


def test_folder_above_is_told_from_the_right_one(whole):
    with pytest.raises(InputError, match=f"{whole} looks right"):
        scan(whole.parent)
