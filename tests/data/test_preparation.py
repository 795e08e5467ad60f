"""Checking and converting: everything is said, and nothing is written by half."""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from mbn_jax.data import preparation, writer
from mbn_jax.data.catalog import VERSION, info, path_of
from mbn_jax.data.dataset import load_split
from mbn_jax.data.manifest import Row, write_manifest
from mbn_jax.data.pipeline import load_images
from mbn_jax.data.writer import fingerprint
from mbn_jax.errors import InputError

from . import own_images, trees


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


def prepare_data(dataset, root, data_dir, **options):
    """Of a published data set, from its folder."""
    preparation.prepare_data(
        dataset, data_dir, folders={"manual_dir": [root]}, **options
    )


def images_of(data_dir, dataset="sysu_mm01"):
    return len(load_split(dataset, "test", data_dir))


def fail_after(monkeypatch, count, error):
    """The conversion of the image of that number fails."""
    unchanged = writer.unchanged
    seen = []

    def failing(path, digest):
        seen.append(path)
        if len(seen) == count:
            raise error
        return unchanged(path, digest)

    monkeypatch.setattr(writer, "unchanged", failing)


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
    assert "python -m mbn_jax train" in out
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
    left = data_dir / "sysu_mm01/incomplete.ABCDEF_2.0.0"
    left.mkdir(parents=True)
    (left / "sysu_mm01-train.array_record-00000-of-00001").write_bytes(b"half")
    prepare_data("sysu_mm01", whole, data_dir)
    assert [p.name for p in (data_dir / "sysu_mm01").iterdir()] == [VERSION]
    assert images_of(data_dir) == 3 * 6 * 3


def test_interrupted_regdb_goes_on_with_the_missing_splits(
    tmp_path, data_dir, monkeypatch, capsys
):
    root = trees.write_regdb(tmp_path / "RegDB")
    with monkeypatch.context() as patch:
        fail_after(patch, 64 * 4 + 10, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare_data("regdb", root, data_dir)
    first = [path_of(f"regdb/split{n}", data_dir).exists() for n in range(1, 11)]
    assert first == [True] * 4 + [False] * 6
    capsys.readouterr()
    prepare_data("regdb", root, data_dir)
    out = capsys.readouterr().out
    assert out.count("already") == 4
    for name in (f"regdb/split{n}" for n in range(1, 11)):
        assert images_of(data_dir, name) == 32


def test_file_that_changes_after_the_check_is_named(
    root, data_dir, monkeypatch, capsys
):
    path = root / "cam6/0010/0002.jpg"
    monkeypatch.setattr(
        preparation, "_check_room", lambda *_: path.write_bytes(trees.encode("another"))
    )
    with pytest.raises(InputError, match=f"^The image {path} has changed since"):
        prepare_data("sysu_mm01", root, data_dir)
    monkeypatch.setattr(preparation, "_check_room", lambda *_: path.unlink())
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
    assert "Another process is preparing sysu_mm01" in capsys.readouterr().err
    assert images_of(data_dir) == 3 * 6 * 3


def test_file_system_without_locks_will_do(whole, data_dir, monkeypatch):
    def no_lock(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    # It may belong to a process that is at work.
    left = data_dir / "sysu_mm01/incomplete.ABCDEF_2.0.0"
    left.mkdir(parents=True)
    prepare_data("sysu_mm01", whole, data_dir)
    assert images_of(data_dir) == 3 * 6 * 3
    assert left.exists()


@pytest.mark.parametrize("name", ["market1501", "regdb/split11", "sysu_mm01/x", ""])
def test_unknown_data_set_is_answered_with_the_known_ones(whole, data_dir, name):
    with pytest.raises(InputError, match=f"'{name}' to prepare; the known ones are"):
        prepare_data(name, whole, data_dir)


def test_synthetic_data_need_no_preparation(whole, data_dir):
    with pytest.raises(InputError, match="rendered when first used"):
        prepare_data("synthetic_vireid/nir", whole, data_dir)


def test_many_shards_are_one_split_in_order(whole, data_dir, monkeypatch):
    monkeypatch.setattr(writer, "_IMAGES_PER_SHARD", 7)
    prepare_data("sysu_mm01", whole, data_dir)
    split = load_split("sysu_mm01", "test", data_dir)
    assert len(list(data_dir.glob("*/*/*-test.array_record*"))) == 8  # of 54 images
    for i, name in enumerate(split.name):
        assert split.encoded_image(i) == (whole / name).read_bytes()


def test_neither_preparing_nor_reading_imports_tensorflow(whole, data_dir):
    program = f"""
import sys
from pathlib import Path
import mbn_jax.data
assert not {{"tensorflow_datasets", "grain", "cv2"}} & set(sys.modules), "heavy"
from mbn_jax.data.preparation import prepare_data
folders = {{"manual_dir": [Path({str(whole)!r})]}}
prepare_data("sysu_mm01", {str(data_dir)!r}, folders=folders)
from mbn_jax.data.dataset import load_split
from mbn_jax.data.pipeline import load_images
split = load_split("sysu_mm01", "val", {str(data_dir)!r})
load_images(split, range(len(split)), (16, 8))
assert "tensorflow" not in sys.modules, "tensorflow"
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@pytest.fixture
def own(tmp_path):
    """A manifest of a person's own images in three modalities."""
    names = "visible", "thermal", "nir"
    rows = []
    for i, who in enumerate(("anna", "Börje", "cem", "d, d")):
        for m, modality in enumerate(names):
            path = tmp_path / "photos" / modality / f"{who}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                own_images.encode(
                    [i, m], channels=3 if m == 0 else 1, bits=8 * (1 + m % 2)
                )
            )
            row = Row(f"{modality}/{path.name}", who, f"{m}", modality, "train")
            rows.append(row._replace(split="train" if i < 2 else "test"))
    write_manifest(tmp_path / "mine.csv", rows)
    return tmp_path / "mine.csv", rows


def prepare_own(own, data_dir, name="mine", **options):
    images = own[0].parent / "photos"
    preparation.prepare_data(name, data_dir, manifest=own[0], images=images, **options)


def test_own_images_become_a_data_set_like_any_other(own, data_dir, capsys):
    prepare_own(own, data_dir)
    out, err = capsys.readouterr()
    assert "test: 6 images of 2 identities, 2 visible, 2 nir and 2 thermal" in err
    assert f"--config.data.dataset=mine --config.data.data_dir={data_dir}" in out
    split = load_split("mine", "test", data_dir)
    assert split.modalities == ("visible", "nir", "thermal")
    assert split.name.tolist() == [row.path for row in own[1] if row.split == "test"]
    for i, name in enumerate(split.name):
        assert split.encoded_image(i) == (own[0].parent / "photos" / name).read_bytes()
        assert split.modalities[split.modality[i]] == name.split("/")[0]
    assert split.identity_names.tolist() == ["cem"] * 3 + ["d, d"] * 3
    assert split.camera_names.tolist() == split.camera.astype(str).tolist()


def test_metadata_hold_what_is_known_of_the_whole(own, data_dir):
    prepare_own(own, data_dir)
    known = info("mine", data_dir)
    assert known.counts["train"] == {"visible": 2, "nir": 2, "thermal": 2}
    assert known.task == "re-identification"
    assert known.sixteen_bits == {"images": 4, "scales": {}}
    digests = {
        row.path: hashlib.sha256(
            (own[0].parent / "photos" / row.path).read_bytes()
        ).digest()
        for row in own[1]
    }
    assert known.fingerprint == fingerprint(own[1], digests)


def test_every_row_and_every_byte_is_in_the_fingerprint(own, data_dir):
    path, rows = own
    prepare_own(own, data_dir)
    prints = {info("mine", data_dir).fingerprint}
    for name, change in (("identity", "anne"), ("camera", "9")):
        write_manifest(path, [rows[0]._replace(**{name: change}), *rows[1:]])
        prepare_own(own, data_dir, name)
        prints.add(info(name, data_dir).fingerprint)
    write_manifest(path, [rows[1], rows[0], *rows[2:]])
    prepare_own(own, data_dir, "order")
    prints.add(info("order", data_dir).fingerprint)
    write_manifest(path, rows)
    image = path.parent / "photos" / rows[-1].path
    image.write_bytes(image.read_bytes() + b"\0")
    prepare_own(own, data_dir, "byte")
    prints.add(info("byte", data_dir).fingerprint)
    assert len(prints) == 5


def test_all_that_is_wrong_with_own_images_is_told_at_once(own, data_dir, capsys):
    path, rows = own
    (path.parent / "photos" / rows[0].path).write_bytes(b"")
    (path.parent / "photos" / rows[4].path).write_bytes(b"no image")
    write_manifest(
        path,
        [*rows, rows[0]._replace(path="gone.png"), rows[1]._replace(identity="cem")],
    )
    with pytest.raises(InputError, match=r"problems above: 4\), and nothing was"):
        prepare_own(own, data_dir)
    told = capsys.readouterr().err
    for words in (
        f"{path}, line 2: The image",
        "is empty; replace it or remove its row from the manifest.",
        f"{path}, line 6: The image",
        "(8 bytes) cannot be decoded; replace",
        f"{path}, line 14: there is no image",
        f"{path}, line 15: the image thermal/anna.png has other labels in line 3",
    ):
        assert words in told
    assert not data_dir.exists()


def test_own_images_that_changed_are_not_taken_for_prepared_ones(own, data_dir, capsys):
    prepare_own(own, data_dir)
    capsys.readouterr()
    prepare_own(own, data_dir)
    assert (
        f"is prepared in {path_of('mine', data_dir)} already" in capsys.readouterr().out
    )
    image = own[0].parent / "photos" / own[1][0].path
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(InputError, match="holds other data of the name mine; delete"):
        prepare_own(own, data_dir)


def test_process_that_waited_for_another_compares_what_that_has_written(
    own, data_dir, monkeypatch
):
    path, rows = own
    prepare_own(own, data_dir)
    there = preparation.is_prepared
    # As if the data set were written after the first look.
    monkeypatch.setattr(preparation, "is_prepared", lambda *_: False)
    monkeypatch.setattr(writer, "is_prepared", iter_of(False, there))
    write_manifest(path, [rows[0]._replace(camera="9"), *rows[1:]])
    with pytest.raises(InputError, match="holds other data of the name mine"):
        prepare_own(own, data_dir)


def iter_of(first, then):
    """A function that gives a value once, and afterwards calls another."""
    answers = iter([first])
    return lambda *args: next(answers, then(*args))


def write_counts(own, low, high):
    """Gives every thermal image counts of 16 bits, its own part of a range."""
    for number, row in enumerate(row for row in own[1] if row.modality == "thermal"):
        start = low + number * (high - low) // 4
        counts = np.linspace(start, start + (high - low) // 4, 24 * 12)
        path = own[0].parent / "photos" / row.path
        path.write_bytes(
            cv2.imencode(".png", counts.reshape(24, 12).astype(np.uint16))[1].tobytes()
        )


def test_scale_of_sixteen_bits_is_stored_and_used_when_images_are_read(own, data_dir):
    write_counts(own, 7000, 9000)
    prepare_own(own, data_dir, sixteen_bits=["thermal=7000, 9000"])
    known = info("mine", data_dir).sixteen_bits
    assert known == {"images": 4, "scales": {"thermal": "7000,9000"}}
    for split, parts in (("train", (0, 1)), ("test", (2, 3))):
        loaded = load_split("mine", split, data_dir)
        images = load_images(loaded, np.arange(len(loaded)), (24, 12))
        thermal = images[loaded.modality == loaded.modalities.index("thermal")]
        for part, image in zip(parts, thermal, strict=True):
            # The same count has the same gray value in every image.
            assert [image.min(), image.max()] == [
                round(255 * part / 4),
                round(255 * (part + 1) / 4),
            ]
        chosen = loaded.select(np.flatnonzero(loaded.modality == 2))
        assert str(chosen.scale(0)) == "7000,9000"
        assert str(loaded.scale(0)) == "auto"


def test_another_scale_is_other_data_and_auto_is_as_if_it_were_not_given(own, data_dir):
    write_counts(own, 7000, 9000)
    prepare_own(own, data_dir)
    prepare_own(own, data_dir, sixteen_bits=["auto"])
    for given in (["minmax"], ["thermal=7000,9000"], ["thermal=7000,9001"]):
        with pytest.raises(InputError, match="holds other data of the name mine; dele"):
            prepare_own(own, data_dir, sixteen_bits=given)
        prepare_own(own, data_dir, f"s{given[0][-1]}", sixteen_bits=given)
    prints = {info(n, data_dir).fingerprint for n in ("mine", "sx", "s0", "s1")}
    assert len(prints) == 4


def test_images_that_a_scale_leaves_nearly_uniform_are_told(own, data_dir, capsys):
    write_counts(own, 7000, 9000)
    with pytest.raises(InputError, match="is for images of nir2, but there are only"):
        prepare_own(own, data_dir, sixteen_bits=["nir2=0,16383"], check_only=True)
    prepare_own(own, data_dir, check_only=True)
    assert "less than a tenth" not in capsys.readouterr().err
    prepare_own(own, data_dir, sixteen_bits=["thermal=0,65535"], check_only=True)
    told = capsys.readouterr().err
    assert told.count("uses less than a tenth of its range (values ") == 4
    assert "from counts 7000 to 7500); choose another scale with --sixteen_bits" in told
    assert told.count("thermal/") == 4


def test_scale_that_no_image_needs_is_told(own, data_dir, capsys):
    for row in own[1]:
        (own[0].parent / "photos" / row.path).write_bytes(own_images.encode(1))
    prepare_own(own, data_dir, sixteen_bits=["0,16383"])
    assert "changes nothing, since no image has 16 bits" in capsys.readouterr().err
    assert info("mine", data_dir).sixteen_bits == {}
    prepare_own(own, data_dir)  # the same data


def test_image_above_the_limit_is_a_problem(own, data_dir, capsys):
    with pytest.raises(InputError, match="problems above: 12"):
        prepare_own(own, data_dir, max_megapixels=0.0002)
    told = capsys.readouterr().err
    assert "declares 12 × 24 pixels, more than 0.0002 million; scale it down" in told
    prepare_own(own, data_dir, max_megapixels=0.000288)


def test_no_temporary_folder_is_left_behind(own, data_dir, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    prepare_own(own, data_dir)
    assert info("mine", data_dir).counts
    assert not list((tmp_path / "temporary").iterdir())


def test_the_next_command_is_one_that_a_shell_can_run(own, tmp_path, capsys):
    prepare_own(own, tmp_path / "my data; rm x")
    (command,) = [
        line.removeprefix("Next: ")
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("Next: ")
    ]
    *_, last = shlex.split(command)
    assert last == f"--config.data.data_dir={tmp_path / 'my data; rm x'}"


def test_a_directory_without_a_name_is_not_the_current_one(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="The name of a folder is empty"):
        preparation.prepare_data("mine", "data", manifest=own[0], images="")
    with pytest.raises(InputError, match=r"manifest cannot be read: \. is not"):
        preparation.prepare_data("mine", "data", manifest="")
    there = set(tmp_path.iterdir())
    with pytest.raises(
        InputError, match="directory of the prepared data is given as a"
    ):
        prepare_own(own, "")
    with pytest.raises(
        InputError, match="directory of the prepared data is given as a"
    ):
        load_split("synthetic_vireid/three-1-1-1-x2", "test", "")
    assert set(tmp_path.iterdir()) == there


def test_table_without_rows_is_a_problem(own, data_dir, capsys):
    write_manifest(own[0], [])
    with pytest.raises(InputError, match="problems above: 1"):
        prepare_own(own, data_dir)
    assert "has no rows; add a row for each image" in capsys.readouterr().err


def test_query_and_gallery_images_keep_to_their_roles(own, data_dir):
    path, rows = own
    write_manifest(
        path,
        [
            row
            if row.split == "train"
            else row._replace(split="query" if row.modality == "nir" else "gallery")
            for row in rows
        ],
    )
    prepare_own(own, data_dir)
    split = load_split("mine", "test", data_dir)
    assert (split.role == 1).tolist() == (split.modality == 1).tolist()
    assert set(split.role.tolist()) == {1, 2}
    assert split.select(np.array([0, 5])).role.tolist() == split.role[[0, 5]].tolist()


@pytest.mark.parametrize(
    "name", ["sysu_mm01", "a/b", "-x", "", "regdb/split3", "x" * 101]
)
def test_name_that_own_images_cannot_have_is_refused(own, data_dir, name):
    with pytest.raises(InputError, match="give your data set a name of its own"):
        prepare_own(own, data_dir, name)


def test_flags_of_another_source_are_refused(whole, data_dir):
    folders = {"manual_dir": [whole], "visible": [whole]}
    with pytest.raises(InputError, match="--visible does not go with --dataset=sysu"):
        preparation.prepare_data("sysu_mm01", data_dir, folders=folders)
    with pytest.raises(InputError, match="is made from folders; give --manual_dir=DIR"):
        preparation.prepare_data("sysu_mm01", data_dir)


def test_interrupted_preparation_of_made_images_leaves_nothing(data_dir, monkeypatch):
    from mbn_jax.data.sources import synthetic_vireid

    name = "synthetic_vireid/three-1-1-1-x2"
    with monkeypatch.context() as patch:
        patch.setattr(synthetic_vireid, "render", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            load_split(name, "test", data_dir)
    assert not path_of(name, data_dir).exists()
    assert len(load_split(name, "test", data_dir)) == 8
