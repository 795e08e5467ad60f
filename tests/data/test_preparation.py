"""Checking and converting: everything is said, and nothing is written by half."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mbn_jax.data import image_check, prepared, tree_builder
from mbn_jax.data.datasets import REAL_DATASETS, load_split
from mbn_jax.data.preparation import prepare_data
from mbn_jax.errors import InputError

from . import trees


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trees.write_sysu_mm01(tmp_path_factory.mktemp("whole") / "SYSU-MM01")


@pytest.fixture
def root(whole, tmp_path):
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "SYSU-MM01"))


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def images_of(data_dir, dataset="sysu_mm01"):
    return len(load_split(dataset, "test", data_dir))


def fail_after(monkeypatch, count, error):
    """The conversion of the image of that number fails."""
    check = tree_builder.check_unchanged
    seen = []

    def failing(tree, name):
        seen.append(name)
        if len(seen) == count:
            raise error
        return check(tree, name)

    monkeypatch.setattr(tree_builder, "check_unchanged", failing)


BAD_IMAGES = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated": (trees.truncate, "ends too early"),
    "no image": (lambda path: path.write_bytes(b"page not found"), "cannot be decoded"),
    "header only": (
        lambda path: path.write_bytes(path.read_bytes()[:30] + b"\xff\xd9"),
        "cannot be decoded",
    ),
    "dangling link": (
        lambda path: (path.unlink(), path.symlink_to("absent")),
        "cannot be read (No such file",
    ),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_image_is_a_problem_that_names_the_file(root, data_dir, capfd, case):
    breaks, words = BAD_IMAGES[case]
    path = root / "cam6/0010/0002.jpg"
    breaks(path)
    with pytest.raises(InputError, match=r"problems above: 1\), and nothing was"):
        prepare_data("sysu_mm01", root, data_dir)
    told = capfd.readouterr().err
    (line,) = [line for line in told.splitlines() if line.startswith("problem: ")]
    assert str(path) in line
    assert words in line
    assert "copy it" in line or "make it" in line
    assert not data_dir.exists()
    # OpenCV and its JPEG library are silent.
    assert "loadsave" not in told
    assert "Corrupt" not in told


def test_truncated_bitmap_is_a_problem(tmp_path, data_dir, capsys):
    root = trees.write_regdb(tmp_path / "RegDB")
    (path,) = root.glob("Visible/5/*_00101_5.bmp")
    trees.truncate(path)
    with pytest.raises(InputError):
        prepare_data("regdb/split2", root, data_dir)
    assert f"problem: The image {path} (" in capsys.readouterr().err


def test_all_problems_are_told_in_one_run(root, data_dir, capsys):
    (root / "exp/val_id.txt").unlink()
    shutil.rmtree(root / "cam2")
    trees.truncate(root / "cam6/0010/0002.jpg")
    with pytest.raises(InputError):
        prepare_data("sysu_mm01", root, data_dir)
    told = capsys.readouterr().err
    for name in ("exp/val_id.txt", "cam2", "cam6/0010/0002.jpg"):
        assert f"{root / name} " in told


def test_many_equal_problems_stay_readable(root, data_dir, capsys):
    broken = sorted(root.glob("cam[123]/*/*.jpg"))[:50]
    for path in broken:
        path.write_bytes(b"")
    with pytest.raises(InputError, match="problems above: 50"):
        prepare_data("sysu_mm01", root, data_dir)
    lines = capsys.readouterr().err.splitlines()
    assert sum("is empty" in line for line in lines) == 20
    assert "problem: … and 30 more: unreadable images." in lines


def test_every_missing_file_is_named_however_many(tmp_path, data_dir, capsys):
    root = trees.write_regdb(tmp_path / "RegDB")
    shutil.rmtree(root / "idx")
    with pytest.raises(InputError):
        prepare_data("regdb", root, data_dir)
    told = capsys.readouterr().err
    for index in ("train_visible_1", "test_thermal_10"):
        assert f"{root}/idx/{index}.txt is missing" in told
    assert told.count("is missing") == 41  # the folder, too


def test_wrong_counts_are_a_table_of_expected_and_found(root, data_dir, capsys):
    prepare_data("sysu_mm01", root, data_dir, check_only=True)
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert ["expected", "found"] in lines
    assert ["train", "identities", "296", "4"] in lines
    assert ["train", "images", "of", "cam3", "5,929", "12"] in lines


def test_check_writes_nothing(whole, data_dir, capsys):
    prepare_data("sysu_mm01", whole, data_dir, check_only=True)
    assert f"No problems in {whole}" in capsys.readouterr().err
    assert not data_dir.exists()


def test_preparing_again_does_nothing_and_says_so(whole, data_dir, capsys):
    prepare_data("sysu_mm01", whole, data_dir)
    out = capsys.readouterr().out
    assert f"is prepared in {data_dir / 'sysu_mm01'}" in out
    assert "experiments/train.py" in out
    before = sorted((p, p.stat().st_mtime_ns) for p in data_dir.rglob("*"))
    prepare_data("sysu_mm01", whole.parent / "not read", data_dir)
    assert "already; delete that directory" in capsys.readouterr().out
    assert sorted((p, p.stat().st_mtime_ns) for p in data_dir.rglob("*")) == before
    assert [p.name for p in data_dir.iterdir()] == ["sysu_mm01"]


def test_interrupted_conversion_leaves_nothing_that_loads(
    whole, data_dir, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        fail_after(patch, 40, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare_data("sysu_mm01", whole, data_dir)
    with pytest.raises(InputError, match="is not prepared"):
        images_of(data_dir)
    prepare_data("sysu_mm01", whole, data_dir)
    assert images_of(data_dir) == 3 * 6 * 3


def test_leftovers_of_a_killed_conversion_are_removed(whole, data_dir):
    left = data_dir / "sysu_mm01/incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    (left / "sysu_mm01-train.array_record-00000-of-00001").write_bytes(b"half")
    prepare_data("sysu_mm01", whole, data_dir)
    assert [p.name for p in (data_dir / "sysu_mm01").iterdir()] == ["1.0.0"]
    assert images_of(data_dir) == 3 * 6 * 3


def test_interrupted_regdb_goes_on_with_the_missing_splits(
    tmp_path, data_dir, monkeypatch, capsys
):
    root = trees.write_regdb(tmp_path / "RegDB")
    with monkeypatch.context() as patch:
        fail_after(patch, 64 * 4 + 10, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare_data("regdb", root, data_dir)
    first = [(data_dir / f"regdb/split{n}/1.0.0").exists() for n in range(1, 11)]
    assert first == [True] * 4 + [False] * 6
    capsys.readouterr()
    prepare_data("regdb", root, data_dir)
    out = capsys.readouterr().out
    assert out.count("already") == 4
    for name in REAL_DATASETS[1:11]:
        assert images_of(data_dir, name) == 32


def test_file_that_changes_after_the_check_is_named(
    root, data_dir, monkeypatch, capsys
):
    path = root / "cam6/0010/0002.jpg"
    check_room = prepared.check_room

    def change(directory, num_bytes):
        path.write_bytes(trees.encode("another"))
        check_room(directory, num_bytes)

    monkeypatch.setattr("mbn_jax.data.preparation.check_room", change)
    with pytest.raises(InputError, match=f"^The image {path} has changed since"):
        prepare_data("sysu_mm01", root, data_dir)
    monkeypatch.setattr("mbn_jax.data.preparation.check_room", lambda *_: path.unlink())
    with pytest.raises(InputError, match=f"^The image {path} was checked, but now"):
        prepare_data("sysu_mm01", root, data_dir)
    assert not list((data_dir / "sysu_mm01").iterdir())


def test_full_disk_is_told_in_one_sentence(whole, data_dir, monkeypatch):
    with monkeypatch.context() as patch:
        fail_after(patch, 40, OSError(28, "No space left on device"))
        with pytest.raises(InputError, match=r"cannot be written .*No space left"):
            prepare_data("sysu_mm01", whole, data_dir)
    with monkeypatch.context() as patch:
        # As array_record puts it.
        error = f"write() failed: No space left on device; writing {data_dir}/sysu_mm01"
        fail_after(patch, 40, RuntimeError(error))
        with pytest.raises(InputError, match=r"\(write\(\) failed: No space left"):
            prepare_data("sysu_mm01", whole, data_dir)
    assert not list((data_dir / "sysu_mm01").iterdir())


def test_too_small_a_disk_is_refused_before_anything_is_written(
    whole, data_dir, monkeypatch
):
    usage = shutil.disk_usage(whole)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="MB free; make room"):
        prepare_data("sysu_mm01", whole, data_dir)
    assert not data_dir.exists()


def test_read_only_data_directory_is_refused_before_the_checks(
    whole, data_dir, monkeypatch, capsys
):
    monkeypatch.setattr(os, "access", lambda path, mode: path != data_dir.parent)
    with pytest.raises(InputError, match="cannot be written to"):
        prepare_data("sysu_mm01", whole, data_dir)
    assert "Checking" not in capsys.readouterr().err


def test_two_processes_do_not_write_at_once(whole, data_dir, monkeypatch, capsys):
    directory = data_dir / "sysu_mm01"
    directory.mkdir(parents=True)
    other = os.open(directory, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    release = threading.Timer(0.5, os.close, [other])
    release.start()
    prepare_data("sysu_mm01", whole, data_dir)
    release.join()
    assert "Another process prepares sysu_mm01" in capsys.readouterr().err
    assert images_of(data_dir) == 3 * 6 * 3


def test_file_system_without_locks_will_do(whole, data_dir, monkeypatch):
    def no_lock(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    # It may belong to a process that is at work.
    left = data_dir / "sysu_mm01/incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    prepare_data("sysu_mm01", whole, data_dir)
    assert images_of(data_dir) == 3 * 6 * 3
    assert left.exists()


@pytest.mark.parametrize("name", ["market1501", "regdb/split11", "sysu_mm01/x", ""])
def test_unknown_data_set_is_answered_with_the_known_ones(whole, data_dir, name):
    with pytest.raises(InputError, match=f"'{name}' to prepare; the known ones are"):
        prepare_data(name, whole, data_dir)


def test_embedded_data_need_no_preparation(whole, data_dir):
    with pytest.raises(InputError, match="rendered when first used"):
        prepare_data("synthetic_vireid/nir", whole, data_dir)


def test_tfds_alone_checks_too(root, data_dir):
    import tensorflow_datasets as tfds

    from mbn_jax.data.sysu_mm01.sysu_mm01_dataset_builder import Builder

    def prepare():
        Builder(data_dir=data_dir).download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(manual_dir=root),
        )

    path = root / "cam6/0010/0002.jpg"
    content = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(InputError, match=f"{path} is empty"):
        prepare()
    path.write_bytes(content)
    prepare()
    assert images_of(data_dir) == 3 * 6 * 3


def test_many_shards_are_one_split_in_order(whole, data_dir, monkeypatch):
    monkeypatch.setattr(tree_builder, "_IMAGES_PER_SHARD", 7)
    prepare_data("sysu_mm01", whole, data_dir)
    split = load_split("sysu_mm01", "test", data_dir)
    assert len(list(data_dir.glob("*/*/*-test.array_record*"))) == 8  # of 54 images
    for i, name in enumerate(split.name):
        assert split.encoded_image(i) == (whole / name).read_bytes()


def test_checksums_are_kept_of_every_image(whole):
    from mbn_jax.data.sysu_mm01.tree import scan

    tree = image_check.check_images(scan(whole), "sysu_mm01")
    assert set(tree.checksums) == set(tree.names)
    assert tree.num_bytes == sum((whole / n).stat().st_size for n in tree.names)


def test_images_in_no_split_are_decoded_but_not_counted(root, capsys):
    from mbn_jax.data.sysu_mm01.tree import scan

    whole = image_check.check_images(scan(root), "sysu_mm01")
    trees.add_image(root, "cam1/0500/0001.jpg")
    trees.truncate(trees.add_image(root, "cam1/0500/0002.jpg"))
    capsys.readouterr()
    tree = image_check.check_images(scan(root), "sysu_mm01")
    assert tree.checksums == whole.checksums
    assert tree.num_bytes == whole.num_bytes
    assert not tree.problems
    assert [w.kind for w in tree.warnings] == [
        "unlisted identities",
        "unreadable images",
    ]
    images = len(tree.names) + 2
    assert capsys.readouterr().err.splitlines() == [
        f"Checking {images} images of sysu_mm01",
        f"Checked {images} images of sysu_mm01",
    ]


def test_preparation_never_imports_tensorflow(whole, data_dir):
    program = f"""
import sys
from mbn_jax.data.preparation import prepare_data
prepare_data("sysu_mm01", {str(whole)!r}, {str(data_dir)!r})
assert "tensorflow" not in sys.modules, "tensorflow"
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
