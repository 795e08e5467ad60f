import json
import os
import shutil

import numpy as np
import pytest

from mbn_jax.data.catalog import VERSION, path_of
from mbn_jax.data.dataset import (
    Split,
    ensure_prepared,
    load_split,
    training_split,
    validation_split,
)
from mbn_jax.data.pipeline import damaged_images, load_images
from mbn_jax.errors import InputError

REAL_DATASETS = ("sysu_mm01", "regdb/split1", "regdb/split10", "llcm")
TINY = "synthetic_vireid/thermal-3-1-2-x2"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("not yet there") / "data"
    ensure_prepared(TINY, directory)
    return directory


@pytest.mark.parametrize(
    ("split", "identities"), [("train", 3), ("val", 1), ("test", 2)]
)
def test_split_has_its_labels_and_its_images(data_dir, split, identities):
    loaded = load_split(TINY, split, data_dir)
    # Two images in each of two cameras.
    assert len(loaded) == identities * 2 * 2
    assert np.unique(loaded.identity).size == identities
    for labels in (loaded.identity, loaded.camera, loaded.modality):
        assert labels.shape == (len(loaded),)
        assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(loaded.modality), [0, 1])
    assert loaded.name.dtype.kind == "U"
    assert np.unique(loaded.name).size == len(loaded)
    images = load_images(loaded, np.arange(len(loaded)), (32, 16))
    assert images.std((1, 2, 3)).min() > 0
    assert loaded.encoded_image(0).startswith(b"\xff\xd8")


def test_splits_share_no_identity(data_dir):
    splits = [load_split(TINY, s, data_dir) for s in ("train", "val", "test")]
    identities = np.concatenate([np.unique(s.identity) for s in splits])
    assert np.unique(identities).size == identities.size == 6


def test_order_of_the_records_is_that_of_their_labels(data_dir):
    split = load_split(TINY, "train", data_dir)
    for i, name in enumerate(split.name):
        camera, identity, _ = name.split("/")
        assert camera == f"cam{split.camera[i]}"
        assert int(identity) == split.identity[i]
        assert split.source[i]["name"] in (name, name.encode())


def test_preparing_again_writes_nothing(data_dir):
    def state():
        return sorted(
            (path, path.stat().st_mtime_ns)
            for path in data_dir.rglob("*.array_record*")
        )

    before = state()
    ensure_prepared(TINY, data_dir)
    assert before
    assert state() == before


def test_loading_prepares_the_synthetic_data(tmp_path):
    assert len(load_split("synthetic_vireid/thermal-1-1-1-x1", "test", tmp_path)) == 2


@pytest.mark.parametrize(
    "name", ["market1501", "synthetic_vireid", "synthetic_vireid/x"]
)
def test_unknown_data_set_is_answered_with_the_known_ones(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}.*synthetic_vireid/nir, synth"):
        ensure_prepared(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_split_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"'query'.*train, val, test"):
        load_split(TINY, "query", tmp_path)


def test_sum_of_splits_is_one_after_the_other(data_dir):
    val, test, both = (
        load_split(TINY, s, data_dir) for s in ("val", "test", "test+val")
    )
    assert both.name.tolist() == test.name.tolist() + val.name.tolist()
    assert both.encoded_image(len(test)) == val.encoded_image(0)
    for split in ("test+", "test+test", "test+query", ""):
        with pytest.raises(InputError, match="it has train, val, test"):
            load_split(TINY, split, data_dir)


@pytest.mark.parametrize("name", REAL_DATASETS)
def test_real_data_set_that_is_not_there_is_answered_with_the_command(tmp_path, name):
    for load in (ensure_prepared, lambda *args: load_split(args[0], "test", args[1])):
        with pytest.raises(InputError) as refused:
            load(name, tmp_path)
        message = str(refused.value)
        assert f"{name} is not prepared in {tmp_path / name}" in message
        assert "docs/datasets.md" in message
        assert f"python -m mbn_jax prepare --dataset={name} --manual_dir=DIR" in message
        assert f"--data_dir={tmp_path}`" in message
    assert not list(tmp_path.iterdir())


def test_what_is_trained_and_validated_on():
    assert training_split(TINY) == "train"
    assert validation_split(TINY, "data") == "val"
    assert training_split("sysu_mm01") == "train+val"
    assert all(validation_split(name, "data") is None for name in REAL_DATASETS)


def test_leftovers_of_a_killed_preparation_are_removed(tmp_path):
    name = "synthetic_vireid/thermal-1-1-1-x1"
    (tmp_path / name / "incomplete.ABCDEF_2.0.0").mkdir(parents=True)
    ensure_prepared(name, tmp_path)
    assert [path.name for path in (tmp_path / name).iterdir()] == [VERSION]


def test_data_directory_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        ensure_prepared(TINY, tmp_path / "file" / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_read_only_data_directory_is_an_error_before_anything_is_written(
    tmp_path, monkeypatch
):
    # Not by chmod: the tests may run as a user who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match="cannot be written to"):
        ensure_prepared(TINY, tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_failing_disk_is_an_input_error_and_leaves_no_data_set(tmp_path, monkeypatch):
    from mbn_jax.data.sources import synthetic_vireid as module

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "render", full)
    with pytest.raises(InputError, match="No space left on device"):
        ensure_prepared(TINY, tmp_path)
    monkeypatch.undo()
    assert len(load_split(TINY, "val", tmp_path)) == 4


def test_damaged_images_are_named(data_dir):
    split = load_split(TINY, "train", data_dir)
    everything = np.arange(len(split))
    assert damaged_images(split, everything) == {}
    records = [dict(record) for record in split.source]
    records[-1]["image"] = b"damaged"
    damaged = Split(**{**vars(split), "source": records})
    ((index, phrase),) = damaged_images(damaged, everything).items()
    assert index == len(split) - 1
    assert split.name[-1] in phrase
    assert not damaged_images(damaged, everything[:-1])


FILES = ("dataset_info.json", "features.json", "metadata.json")
DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "garbled": lambda path: path.write_bytes(b"\xff\xfe{"),
    "a list": lambda path: path.write_text("[]"),
    "an empty table": lambda path: path.write_text("{}"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.fixture
def copy(data_dir, tmp_path):
    """The directory and the folder of a data set that a test may damage."""
    shutil.copytree(data_dir, tmp_path / "data")
    return tmp_path / "data", path_of(TINY, tmp_path / "data")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_data_set_that_is_half_there_is_to_be_prepared_again(copy, name, damage):
    directory, folder = copy
    DAMAGES[damage](folder / name)
    with pytest.raises(InputError, match=rf"{folder}.* and prepare the data set") as e:
        load_split(TINY, "train", directory)
    assert "delete" in str(e.value)
    assert "\n" not in str(e.value)


def test_an_empty_folder_is_not_a_data_set(tmp_path):
    path_of(TINY, tmp_path).mkdir(parents=True)
    with pytest.raises(InputError, match=r"delete the folder .* prepare the data set"):
        load_split(TINY, "train", tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modalities", 2),
        ("counts", []),
        ("counts", {"train": 3}),
        ("counts", {"train": {"visible": "3"}}),
        ("fingerprint", 1),
        ("sixteen_bits", {"images": 1, "scales": {"visible": [0, 1]}}),
        ("sixteen_bits", {"images": 1, "scales": {"visible": "5,1"}}),
        ("identities", {"a": [1]}),
        ("cameras", {"a": "door"}),
        ("modalities", []),
        ("modalities", ["visible"]),
        ("modalities", ["visible", "visible"]),
        ("modalities", ["infrared", "visible"]),
    ],
)
def test_metadata_of_another_form_are_refused(copy, field, value):
    directory, folder = copy
    written = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**written, field: value}))
    with pytest.raises(
        InputError, match=r"metadata\.json of .* cannot be read; delete"
    ):
        load_split(TINY, "train", directory)


def test_a_number_of_records_that_is_not_that_of_the_metadata_is_refused(copy):
    directory, folder = copy
    written = json.loads((folder / "dataset_info.json").read_text())
    for split in written["splits"]:
        split["shardLengths"] = ["5"]
    (folder / "dataset_info.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match=r"\(5 records of .*, but 12 according to"):
        load_split(TINY, "train", directory)
