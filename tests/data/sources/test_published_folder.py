"""SYSU-MM01, RegDB and LLCM: what is read of whole copies and said of broken ones."""

import re

import pytest

from mbn_jax.errors import InputError

from .. import trees

WRITE = {
    "sysu_mm01": trees.write_sysu_mm01,
    "regdb": trees.write_regdb,
    "llcm": lambda root: trees.write_llcm(root, images=1),
}
COPY = r"copy .* from the archive of the data set\."


@pytest.fixture
def root(dataset, tmp_path):
    """A whole copy of the data set of the test, which it may break."""
    return WRITE[dataset](tmp_path / "copy")


def problems(dataset, root, kind=None):
    return trees.sentences(trees.scan(dataset, root).findings.problems, kind)


# Visible and infrared images: identities × cameras × images of each in each camera.
COUNTS = {
    "sysu_mm01": {
        "train": (4 * 4 * 3, 4 * 2 * 3),
        "val": (2 * 2 * 3, 2 * 1 * 3),
        "test": (3 * 4 * 3, 3 * 2 * 3),
    },
    "regdb": {"train": (4 * 1 * 4, 4 * 1 * 4), "test": (4 * 1 * 4, 4 * 1 * 4)},
    # Nobody is in test_nir/cam3.
    "llcm": {"train": (4 * 9 * 1, 4 * 9 * 1), "test": (3 * 9 * 1, 3 * 8 * 1)},
}


@pytest.mark.parametrize("dataset", WRITE)
def test_whole_copy_is_read_and_nothing_is_found_wrong(dataset, root):
    found = trees.scan(dataset, root)
    assert not found.findings.problems
    assert not found.findings.warnings
    assert not found.left_out
    for manifest in found.manifests.values():
        assert manifest.counts() == {
            split: {"visible": visible, "infrared": infrared}
            for split, (visible, infrared) in COUNTS[dataset].items()
        }


@pytest.mark.parametrize("dataset", WRITE)
def test_labels_of_a_row_are_those_of_its_path(dataset, root):
    for manifest in trees.scan(dataset, root).manifests.values():
        for row in manifest.rows:
            top, *_, identity, _ = row.path.split("/")
            infrared = top in ("cam3", "cam6", "Thermal", "nir", "test_nir")
            camera = re.search(r"cam(\d)/", row.path)
            assert row.identity == str(int(identity))
            assert row.modality == ("infrared" if infrared else "visible")
            # Those of RegDB have no numbers.
            assert row.camera == (camera[1] if camera else "2" if infrared else "1")


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("sysu_mm01", ["cam1", "cam6", "exp/train_id.txt", "exp/test_id.txt"]),
        ("sysu_mm01", ["exp/train_id.txt", "exp/val_id.txt", "exp/test_id.txt", "exp"]),
        ("regdb", ["Thermal", "idx/test_thermal_10.txt"]),
        ("llcm", ["nir", "vis/cam4", "idx/test_id.txt"]),
    ],
)
def test_everything_missing_is_named_but_no_folder_in_another(dataset, root, names):
    for name in names:
        trees.remove_matching(root, name)
    told = problems(dataset, root, "missing folders and files")
    assert len(told.splitlines()) == len(names)
    for name in names:
        what = "file" if name.endswith(".txt") else "folder"
        assert re.search(f"The {what} {root / name} is missing; {COPY}", told)


@pytest.mark.parametrize(
    ("dataset", "pattern", "words"),
    [
        ("sysu_mm01", "cam*/0010", "Identity 10 is listed for test, but has no image"),
        (
            "regdb",
            "Visible/5/*_00101_5.bmp",
            r"/t\w+_visible_1.txt, line \d+ and 9 other",
        ),
        ("regdb", "Visible/5/*_00101_5.bmp", "other lines: there is no {lost}"),
        ("llcm", "vis/cam4/0009/*", r"/train_vis.txt, line \d+: there is no {lost}"),
        (
            "llcm",
            "test_nir/cam4/0003/*",
            r"/test_nir.txt, line \d+: there is no {lost}",
        ),
        ("llcm", "test_*/cam*/0005", "Identity 5 is listed for test, but has no image"),
    ],
)
def test_missing_images_are_described(dataset, root, pattern, words):
    lost = root / trees.remove_matching(root, pattern)[0]
    assert re.search(f"{words.format(lost=lost)}.*; {COPY}", problems(dataset, root))


# What is replaced by what in a file, and the words for it.
EDITED = {
    ("sysu_mm01", "exp/test_id.txt"): [
        ("6,", "6,18,", "Identity 18 is in {root}/exp/train_id.txt and in {file}"),
        ("6,", "6,6,", "{file} lists identity 6 twice"),
        ("6,", "6,x7,", "{file} holds 'x7', not the number of an identity"),
        (".*", "", "{file} lists no identity"),
    ],
    ("regdb", "idx/train_visible_1.txt"): [
        (" 0\n", "\n", "{file}, line 1: 'Visible/.*bmp' is not a path"),
        (" 0\n", " zero\n", "{file}, line 1: .*zero' is not a path"),
        ("Visible", "Thermal", "{file}, line 1: .* is not a path of this part"),
        ("Visible", "Visible/../Visible", "{file}, line 1: .* is not a path of this"),
        ("(.*\n)", r"\1\1", "{file}, line 2 lists .*, which {file}, line 1 lists, too"),
        (" 0\n", " 3\n", r"{file}, line \d+ gives identity \d+ the label"),
    ],
    ("regdb", "idx/train_thermal_1.txt"): [
        (" 0\n", " 3\n", r"{file}, line 1 gives identity (\d+) the label 3, but {root}")
    ],
    ("regdb", "idx/test_thermal_10.txt"): [("(.*\n)+", "", "{file} is empty")],
    ("llcm", "idx/train_vis.txt"): [
        ("vis/cam1", "vis/camera1", "{file}, line 1: .* is not a path of this part"),
        ("vis/cam1", "nir/cam1", "{file}, line 1: .* is not a path of this part"),
    ],
    ("llcm", "idx/train_nir.txt"): [
        (" 0\n", " 3\n", r"{file}, line 1 gives identity (\d+) the label 3, but {root}")
    ],
    ("llcm", "idx/test_vis.txt"): [
        (" 0\n", " 1\n", r"{file}, line \d+ gives identity \d+ the label")
    ],
    ("llcm", "idx/test_id.txt"): [
        ("3,", "3;", "{file} holds '3;5', not the number of an identity"),
        ("3,", "3,9,", "Identity 9 is in the training lists and in {file}"),
    ],
}


@pytest.mark.parametrize(
    ("dataset", "name", "old", "new", "words"),
    [(*place, *edit) for place, edits in EDITED.items() for edit in edits],
)
def test_wrong_line_of_a_list_is_described(dataset, root, name, old, new, words):
    trees.edit(root / name, old, new)
    words = words.format(root=root, file=root / name)
    assert re.search(f"{words}.*; {COPY}", problems(dataset, root))


@pytest.mark.parametrize(
    ("dataset", "unexpected", "unlisted"),
    [
        # Its unlisted images are told by identity.
        ("sysu_mm01", ["cam7/", "cam1/6/", "cam1/0006/0009.jpg/"], []),
        ("sysu_mm01", ["cam1/0006/Thumbs.db", "cam1/0006/1.jpg"], []),
        ("sysu_mm01", ["exp/notes.txt", "readme.txt"], []),
        (
            "regdb",
            ["Thermal/five/", "idx/test_visible_11.txt"],
            ["Thermal/5/male_back_t_99999_5.bmp"],
        ),
        (
            "llcm",
            ["test_vis/cam1/0003/._new.jpg", "vis/cam10/"],
            ["test_vis/cam1/0500/new.jpg", "vis/cam1/0009/new.jpg"],
        ),
    ],
)
def test_what_is_in_no_split_is_left_out_with_a_warning(
    dataset, root, unexpected, unlisted
):
    before = trees.scan(dataset, root).manifests
    for name in unexpected + unlisted:
        trees.write(root, f"{name}0001.jpg" if name.endswith("/") else name, "")
    found = trees.scan(dataset, root)
    assert not found.findings.problems
    assert found.manifests == before
    assert sorted(found.left_out) == unlisted
    told = trees.sentences(found.findings.warnings)
    for name in unexpected:
        assert f" '{root / name}' is not part of the data set and is left out." in told
    for name in unlisted:
        assert re.search(f"The file {root / name} is .* and is left out.", told)


@pytest.mark.parametrize("dataset", WRITE)
def test_folder_above_or_below_is_told_from_the_right_one(dataset, root):
    for near in (root.parent, min(root.iterdir())):
        with pytest.raises(InputError, match=f"{root} looks right; give that with"):
            trees.scan(dataset, near)


def test_other_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds none of cam1, .*exp; give the folder"):
        trees.scan("sysu_mm01", tmp_path)
    with pytest.raises(InputError, match=r"is not a folder; give the one that holds"):
        trees.scan("sysu_mm01", tmp_path / "absent")
