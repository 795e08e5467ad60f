"""Records and images that cannot be read: named and refused, or left out."""

import json
import shutil
from pathlib import Path

import pytest
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from mbn_jax.data.dataset import load_split
from mbn_jax.errors import InputError
from mbn_jax.training.loop import train
from mbn_jax.training.run_data import load_splits


@pytest.fixture(scope="module")
def prepared(data_dir):
    load_split("synthetic_vireid/nir-6-2-2-x2", "train", data_dir)
    return data_dir


@pytest.fixture
def config(config, prepared, tmp_path):
    """Of a run on data of its own, to be damaged."""
    shutil.copytree(prepared, tmp_path / "data")
    config.data.data_dir = str(tmp_path / "data")
    return config


def file_of(config, split):
    (path,) = Path(config.data.data_dir).rglob(f"*-{split}.array_record*")
    return path


def read(path):
    reader = array_record_module.ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    return records


def flip_a_byte(path):
    """In the middle of the file, or before: between records there are unused bytes."""
    whole = path.read_bytes()
    for part in range(2, 10):
        content = bytearray(whole)
        content[len(whole) // part] ^= 0xFF
        path.write_bytes(content)
        try:
            read(path)
        except RuntimeError:
            return
    raise AssertionError("no byte that mattered")


def cut_an_image(path):
    """Writes the file again, whole, with 20 bytes of the image of its record 5."""
    records = read(path)
    example = tf_example_pb2.Example.FromString(records[5])
    image = example.features.feature["image"].bytes_list
    image.value[0] = image.value[0][:20]
    records[5] = example.SerializeToString()
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


DAMAGES = {
    flip_a_byte: r"Record \d+ of {}/{} in .* is damaged \(",
    cut_an_image: r"The image .* of {}/{} \(20 bytes\) cannot be decoded",
}


def message(damage, split):
    return DAMAGES[damage].format("synthetic_vireid/nir-6-2-2-x2", split)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_one_damaged_record_is_named_and_refused(config, damage, split):
    damage(file_of(config, split))
    with pytest.raises(InputError, match=message(damage, split)) as error:
        load_splits(config)
    assert "--config.data.skip_damaged" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_asked_for_it_is_left_out_counted_and_told(config, damage):
    whole = load_splits(config)
    config.data.skip_damaged = True
    damage(file_of(config, "train"))
    splits = load_splits(config)
    assert len(splits.train) == len(whole.train) - 1
    assert "without 1 damaged record" in splits.selection
    assert "Left out: 1 damaged record" in str(splits)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_of_the_test_is_refused_even_then(config, damage):
    config.data.skip_damaged = True
    damage(file_of(config, "test"))
    with pytest.raises(InputError, match=message(damage, "test")):
        load_splits(config)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_that_is_cut_off_is_refused(config, split):
    path = file_of(config, split)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError) as error:
        load_splits(config)
    assert path.parent.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_without_the_damaged_record_says_so_in_its_results(
    config, damage, tmp_path, capfd, count
):
    config.data.skip_damaged = True
    damage(file_of(config, "train"))
    train(config, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "without 1 damaged record" in results["selection"]
    assert "Left out: 1 damaged record" in capfd.readouterr().err
    count(f"damaged data ({damage.__name__})", "left out, counted in results.json")
