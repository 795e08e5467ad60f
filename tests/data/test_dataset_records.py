"""Our reading of prepared records against TFDS's own, on a small data set."""

import os
import pathlib
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mbn_jax.data.dataset import Examples
from mbn_jax.errors import InputError

COUNTS = {"train": 601, "test": 7}
COUNT, SHARDS = COUNTS["train"], 3


class Builder(tfds.core.GeneratorBasedBuilder):
    """Records whose images are random bytes: nothing here decodes them."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = pathlib.Path(__file__)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "identity": np.int32,
            "camera": np.int32,
            "modality": np.int32,
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {s: self._generate_examples(n) for s, n in COUNTS.items()}

    def _generate_examples(self, count):
        rng = np.random.default_rng(count)
        for i in range(count):
            name = f"cam{i % 6 + 1}/{i // 7:04d}/é{i}.jpg"
            yield (
                name,
                {
                    "image": rng.bytes(10_000),
                    "identity": i // 7,
                    "camera": i % 6 + 1,
                    "modality": i % 2,
                    "name": name,
                },
            )


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    builder = Builder(data_dir=tmp_path_factory.mktemp("data"))
    tfds.display_progress_bar(False)
    builder.download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(
            try_download_gcs=False, num_shards=SHARDS
        ),
    )
    tfds.display_progress_bar(True)
    assert len(list(builder.data_path.glob("*train.array_record*"))) == SHARDS
    return builder


def open_examples(folder, split, title):
    """The records of a split, their labels, and what is wrong with some."""
    examples = Examples(folder, split, title)
    return examples, *examples.labels()


@pytest.fixture(scope="module")
def reference(builder):
    """The records as TFDS itself reads them."""
    return list(
        builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    )


def test_records_are_those_that_tfds_reads(builder, reference):
    source, _, _ = open_examples(builder.data_path, "train", "mine")
    assert len(source) == COUNT
    for ours, theirs in zip(source, reference, strict=True):
        assert ours == {**theirs, "name": theirs["name"].decode()}


def test_labels_are_those_of_the_records_in_their_order(builder, reference):
    _, records, damaged = open_examples(builder.data_path, "train", "mine")
    assert len(records["name"]) == COUNT
    assert not damaged
    for label in ("identity", "camera", "modality"):
        values = records[label]
        assert values.dtype == np.int32
        np.testing.assert_array_equal(values, [record[label] for record in reference])
    assert records["name"].dtype.kind == "U"
    assert records["name"].tolist() == [record["name"].decode() for record in reference]


def test_every_split_has_its_own_records(builder):
    source, records, _ = open_examples(builder.data_path, "test", "mine")
    assert len(source) == len(records["name"]) == COUNTS["test"]


def test_a_sum_of_splits_has_the_records_of_both_in_this_order(builder):
    source, records, _ = open_examples(builder.data_path, "test+train", "mine")
    parts = [
        open_examples(builder.data_path, split, "mine") for split in ("test", "train")
    ]
    assert list(source) == [record for part, _, _ in parts for record in part]
    np.testing.assert_array_equal(
        records["name"], np.concatenate([labels["name"] for _, labels, _ in parts])
    )


@pytest.mark.parametrize(
    "part", [slice(0), slice(3), slice(195, 405), slice(-2, None), slice(9, 0, -3)]
)
def test_a_slice_is_the_list_of_its_records(builder, part):
    source, _, _ = open_examples(builder.data_path, "train", "mine")
    assert source[part] == [source[i] for i in range(COUNT)[part]]


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1])
def test_an_index_beyond_the_end_is_refused(builder, index):
    source, _, _ = open_examples(builder.data_path, "train", "mine")
    assert source[-1] == source[COUNT - 1]
    with pytest.raises(IndexError):
        source[index]


def test_threads_read_at_once_what_one_reads_alone(builder, reference):
    source, _, _ = open_examples(builder.data_path, "train", "mine")
    order = np.random.default_rng(0).integers(0, COUNT, 3000)
    with ThreadPoolExecutor(8) as pool:
        for index, record in zip(
            order, pool.map(source.__getitem__, order), strict=True
        ):
            assert record["image"] == reference[index]["image"]


def test_opening_keeps_no_images(builder):
    # What is imported and opened once does not count.
    open_examples(builder.data_path, "train", "mine")
    tracemalloc.start()
    try:
        source, _, _ = open_examples(builder.data_path, "train", "mine")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 10_000 * len(source) / 10


def flip_bytes(path):
    """In place, as `cp` writes over a file that is open elsewhere."""
    with path.open("r+b") as file:
        for position in range(100, path.stat().st_size, 5_000):
            file.seek(position)
            file.write(b"\xaa" * 8)


CHANGES = {
    "cut off": (lambda path: os.truncate(path, 1_000_000), "its file ends before this"),
    "emptied": (lambda path: os.truncate(path, 0), "its file ends before this"),
    "written over": (flip_bytes, "hash mismatch"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_that_is_lost_after_opening_is_named(builder, tmp_path, change):
    folder = pathlib.Path(shutil.copytree(builder.data_path, tmp_path / "data"))
    source, _, damaged = open_examples(folder, "train", "mine/train")
    assert not damaged
    path = sorted(folder.glob("*train.array_record*"))[1]
    first, (spoil, reason) = source[0], CHANGES[change]
    spoil(path)
    lost = COUNT * 2 // SHARDS - 2  # of the second file, near its end
    message = (
        rf"^Record {lost} of mine/train in {folder} is damaged \(.*{reason}.*; del"
    )
    for read in (lambda: source[lost], lambda: source[lost : lost + 3]):
        with pytest.raises(InputError, match=message) as error:
            read()
        assert "\n" not in str(error.value)
    assert source[0] == first  # of another file
    with pytest.raises(InputError):  # not taken for the end of the records
        list(source)


def test_records_of_a_file_that_is_deleted_can_still_be_read(builder, tmp_path):
    folder = pathlib.Path(shutil.copytree(builder.data_path, tmp_path / "data"))
    source, labels, _ = open_examples(folder, "train", "mine")
    shutil.rmtree(folder)
    assert [record["name"] for record in source] == labels["name"].tolist()
