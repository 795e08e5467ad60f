"""RegDB: ten splits by their index files, and what is said of broken ones."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mbn_jax.data.datasets import load_split, training_split, validation_split
from mbn_jax.data.preparation import prepare_data
from mbn_jax.data.regdb.tree import scan
from mbn_jax.errors import InputError

from . import trees


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trees.write_regdb(tmp_path_factory.mktemp("whole") / "RegDB")


@pytest.fixture
def root(whole, tmp_path):
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "RegDB"))


def sentences(findings):
    return "\n".join(finding.sentence for finding in findings)


def index_names(root, number, split):
    return [
        line.split()[0]
        for modality in ("visible", "thermal")
        for line in (root / f"idx/{split}_{modality}_{number}.txt")
        .read_text()
        .splitlines()
    ]


def test_whole_tree_has_ten_splits_and_no_problem(whole):
    tree = scan(whole)
    assert not tree.problems
    assert not tree.warnings
    assert list(tree.splits)[:3] == ["split1/train", "split1/test", "split2/train"]
    assert len(tree.splits) == 20
    halves = {
        tuple(np.unique(tree.splits[f"split{n}/train"].identity)) for n in range(1, 11)
    }
    assert len(halves) == 10


def test_complete_numbers_are_the_published_ones(tmp_path):
    tree = scan(trees.write_regdb(tmp_path / "RegDB", identities=412, images=10))
    assert not tree.problems
    assert [count for count in tree.counts if count.expected != count.found] == []


def test_prepared_split_is_its_index_files_in_their_order(whole, tmp_path):
    prepare_data("regdb/split3", whole, tmp_path)
    for name in ("train", "test"):
        split = load_split("regdb/split3", name, tmp_path)
        assert split.name.tolist() == index_names(whole, 3, name)
        folders = [int(n.split("/")[1]) for n in split.name]
        np.testing.assert_array_equal(split.identity, folders)
        thermal = np.char.startswith(split.name, "Thermal/")
        np.testing.assert_array_equal(split.modality, thermal)
        np.testing.assert_array_equal(split.camera, 1 + thermal)
        for i, n in enumerate(split.name):
            assert split.encoded_image(i) == (whole / n).read_bytes()
    with pytest.raises(InputError, match="it has train, test"):
        load_split("regdb/split3", "val", tmp_path)
    with pytest.raises(InputError, match=r"regdb/split4 .*--dataset=regdb/split4 "):
        load_split("regdb/split4", "train", tmp_path)


def test_there_is_no_validation_split():
    assert training_split("regdb/split3") == "train"
    assert validation_split("regdb/split3") is None


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
    assert re.search(pattern, sentences(scan(root).problems))


def test_contradicting_labels_are_told_once_for_each_pair(root):
    another_label_in_thermal(root)
    # Four identities, each of which contradicts by its label and as its label's owner.
    assert len(scan(root).problems) <= 8


def test_only_the_splits_asked_for_are_read(root):
    (root / "idx/test_thermal_10.txt").unlink()
    tree = scan(root, [3])
    assert not tree.problems
    # A split trains or tests on everyone, so that none of its images are unlisted.
    assert not tree.warnings
    assert not tree.left_out


def test_damaged_image_in_no_index_does_not_stop(root, tmp_path, capsys):
    path = trees.add_image(root, "Thermal/5/male_back_t_99999_5.bmp")
    trees.truncate(path)
    assert scan(root).left_out == ("Thermal/5/male_back_t_99999_5.bmp",)
    prepare_data("regdb/split3", root, tmp_path / "data")
    told = capsys.readouterr().err
    assert f"warning: The image {path} (" in told
    assert "problem: " not in told


def test_what_no_index_lists_is_left_out_with_a_warning(root):
    trees.add_image(root, "Thermal/5/male_back_t_99999_5.bmp")
    trees.add_image(root, "Thermal/five/male_back_t_99999_5.bmp")
    (root / "idx/test_visible_11.txt").write_text("")
    tree = scan(root)
    assert not tree.problems
    warnings = sentences(tree.warnings)
    for name in (
        "Thermal/5/male_back_t_99999_5.bmp",
        "Thermal/five",
        "idx/test_visible_11.txt",
    ):
        assert str(root / name) in warnings


def test_identity_of_one_modality_is_a_warning(root):
    path = root / "idx/train_thermal_1.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.endswith(" 0\n")))
    assert re.search(
        r"Identity \d+ of split1/train has no infrared", sentences(scan(root).warnings)
    )


def test_folder_above_is_told_from_the_right_one(whole):
    with pytest.raises(InputError, match=f"{whole} looks right"):
        scan(whole.parent)
