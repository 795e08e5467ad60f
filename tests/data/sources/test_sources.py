"""A published data set is one file and a line of the registry."""

import pytest

from mbn_jax.data import sources
from mbn_jax.data.dataset import load_split, training_split
from mbn_jax.data.preparation import prepare_data
from mbn_jax.errors import InputError

from .. import trees

FOURTH = """
from mbn_jax.data.manifest import Manifest
from mbn_jax.data.sources.published_folder import Copy, Layout
from mbn_jax.data.sources import Source

LAYOUT = Layout(
    folders=("color", "heat", "lists"),
    images=("(?P<modality>color|heat)", "(?P<identity>[0-9]+)", r"[^/]+[.]png"),
    needed=("lists/test.txt",),
)
MODALITIES = {"color": "visible", "heat": "thermal"}


def scan(folders, names):
    copy = Copy(folders, LAYOUT)
    test, rows = copy.identities("lists/test.txt"), []
    for found in copy.walk():
        split = "test" if int(found.labels["identity"]) in test else "train"
        modality = MODALITIES[found.labels["modality"]]
        rows += found.rows(modality == "thermal", modality, split)
    rows.sort(key=lambda row: row.split != "train")
    return copy.scan({"fourth": Manifest(rows=rows, root=copy.root)}, [])


SOURCE = Source(name="fourth", datasets=("fourth",), ask="ask for it,", scan=scan)
"""


@pytest.fixture
def fourth(tmp_path, monkeypatch):
    """The folder of a data set that only a file beside it knows."""
    (tmp_path / "fourth_source.py").write_text(FOURTH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sources.MODULES, "fourth", "fourth_source")
    root = tmp_path / "Fourth"
    for folder in ("color", "heat"):
        for identity in (3, 5, 8, 9):
            for image in range(2):
                trees.add_image(root, f"{folder}/{identity}/{image}.png")
    (root / "lists").mkdir()
    (root / "lists/test.txt").write_text("8,9")
    return root


def test_a_fourth_data_set_is_one_file_and_one_line(fourth, tmp_path):
    data_dir = tmp_path / "data"
    with pytest.raises(InputError, match=r"ask for it, and run .*--dataset=fourth"):
        load_split("fourth", "test", data_dir)
    prepare_data("fourth", data_dir, folders={"manual_dir": [fourth]})
    train = load_split("fourth", training_split("fourth"), data_dir)
    test = load_split("fourth", "test", data_dir)
    assert train.modalities == test.modalities == ("visible", "thermal")
    assert (len(train), len(test)) == (8, 8)
    assert {*train.identity.tolist()} == {3, 5}
    assert {*test.identity.tolist()} == {8, 9}
    names = [p.name for p in sources.protocols_of("fourth", test.modalities)]
    assert names == ["thermal_to_visible", "visible_to_thermal"]


def test_what_is_wrong_with_it_is_named(fourth):
    (fourth / "lists/test.txt").unlink()
    (fourth / "notes.txt").write_text("")
    found = trees.scan("fourth", fourth).findings
    assert f"{fourth}/lists/test.txt is missing" in trees.sentences(found.problems)
    assert f"{fourth}/notes.txt'" in trees.sentences(found.warnings)


def test_sources_have_distinct_names_and_know_their_data_sets():
    for name, source in zip(sources.MODULES, sources.all_sources(), strict=True):
        assert source.name == name
        assert source.scan or source.make
        for dataset in source.datasets:
            assert source.knows(dataset)
            assert sources.source_of(dataset) is source
