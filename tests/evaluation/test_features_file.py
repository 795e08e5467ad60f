"""Features of anybody: what was written is read, and the rest is one sentence."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.evaluation import features as module
from mbn_jax.evaluation.features import read_features, write_features
from mbn_jax.evaluation.records import Records

GOOD = {
    "features": np.eye(3, 4),
    "identity": np.array([6, 6, 10]),
    "camera": np.array([1, 3, 1]),
    "modality": np.array([0, 1, 0]),
    "name": np.array(["cam1/0006/0001.jpg", "cam3/0006/0001.jpg", "b.jpg"]),
}


def save(path, **changes):
    arrays = {
        key: value for key, value in (GOOD | changes).items() if value is not None
    }
    np.savez(path, **arrays)
    return path


def test_what_was_written_is_read(tmp_path):
    records = Records(**{key: GOOD[key] for key in GOOD if key != "features"})
    write_features(tmp_path / "f.npz", GOOD["features"], records, "a network")
    features, read, source = read_features(tmp_path / "f.npz")
    assert source == "a network"
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, GOOD["features"])
    for label, values in vars(records).items():
        np.testing.assert_array_equal(getattr(read, label), values)
    assert read.modalities == ("visible", "infrared")
    assert read.role is None
    assert read.identity.dtype == read.camera.dtype == read.modality.dtype == np.int32


def test_modalities_and_roles_are_read(tmp_path):
    labels = {key: GOOD[key] for key in GOOD if key != "features"}
    labels |= {"modality": np.array([2, 1, 0]), "role": np.array([1, 2, 0])}
    records = Records(**labels, modalities=("color", "nir", "thermal"))
    write_features(tmp_path / "f.npz", GOOD["features"], records, "")
    _, read, _ = read_features(tmp_path / "f.npz")
    assert read.modalities == ("color", "nir", "thermal")
    np.testing.assert_array_equal(read.modality, [2, 1, 0])
    np.testing.assert_array_equal(read.role, [1, 2, 0])
    assert read.role.dtype == np.int32


def test_names_may_be_bytes_and_have_backslashes(tmp_path):
    names = np.array([b"cam1\\0006\\0001.jpg", b"x", b"y"])
    _, records, source = read_features(save(tmp_path / "f.npz", name=names))
    assert source == ""
    assert records.name.tolist() == ["cam1/0006/0001.jpg", "x", "y"]


def test_texts_in_bytes_are_utf_8_and_no_text_moves_the_cursor(tmp_path):
    path = save(
        tmp_path / "f.npz",
        name=np.array(["é\u202e".encode(), b"a\nb  0.99\x1b[2J", b"c\\d e"]),
        source=np.array("mine\r\x1b]0;title\x07"),
        modalities=np.array(["visible", "ir\n"], ">U9"),
    )
    _, records, source = read_features(path)
    assert records.name.tolist() == ["é\\u202e", "a\\nb  0.99\\x1b[2J", "c/d e"]
    assert source == "mine\\r\\x1b]0;title\\x07"
    assert records.modalities == ("visible", "ir\\n")


def test_half_precision_features_and_small_integers_are_read(tmp_path):
    path = save(
        tmp_path / "f.npz",
        features=GOOD["features"].astype(np.float16),
        modality=GOOD["modality"].astype(np.uint8),
    )
    assert read_features(path)[0].dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": None, "name": None}, "lacks camera, name; .* features, identity"),
        ({"features": np.zeros(3)}, r"features of .*f\.npz is float64 of shape \(3,\)"),
        ({"features": np.zeros((3, 4), int)}, "features .* is int64"),
        ({"features": np.zeros((0, 4))}, "is empty"),
        ({"identity": np.arange(2)}, r"identity .* shape \(2,\), but features has 3"),
        ({"identity": np.array([1.0, 2.0, 3.0])}, r"identity .* astype\(int\)"),
        ({"camera": np.array([1, -3, 1])}, "camera .* holds -3"),
        ({"identity": np.array([1, 2**40, 1])}, "identity .* holds 1099511627776"),
        ({"modality": np.array([0, 1, 2])}, r"modality .* holds 2.*\(0 visible"),
        ({"modalities": np.array(["a", "a"])}, "two or more different names"),
        ({"modalities": np.array([0, 1])}, r"modalities of .* is int64"),
        (
            {"modalities": np.array(["a", "b", "c"]), "modality": np.array([0, 3, 1])},
            r"modality .* holds 3, .*0\.\.2 \(0 a, 1 b, 2 c\)",
        ),
        ({"role": np.array([0, 1, 3])}, r"role .* holds 3.* 2 gallery only\)"),
        ({"role": np.array([0, 1])}, r"role .* shape \(2,\), but features has 3"),
        ({"name": np.array(["a", "b", "a"])}, "'a' 2 times"),
        (
            {"features": np.array([[0.0], [1e39], [1.0]])},
            "a number beyond float32 in row 1",
        ),
        ({"name": np.arange(3)}, "strings are expected"),
        ({"name": np.array([b"a", b"b\xff", b"c"])}, r"b'b.xff', which is not UTF-8"),
        ({"name": np.array([110, 111, 2**21], "u4").view("U1")}, "is not Unicode"),
        ({"name": np.array(["a\n", "b", "a\n"])}, r"'a\\n' 2 times"),
        ({"source": np.array(3)}, "source of .* is int64, but strings"),
        (
            {"source": np.array(["a", "b"])},
            r"source of .* shape \(2,\), but one string",
        ),
        (
            {"source": np.array("a" * 2**16)},
            r"source\.npy has .* expected no more than",
        ),
        (
            {"features": np.array([[0.0], [np.nan], [1.0]])},
            r"row 1 \(cam3/0006/0001\.jpg\)",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_features(save(tmp_path / "f.npz", **changes))


def test_python_objects_are_refused(tmp_path):
    path = save(tmp_path / "f.npz", name=np.array(["a", None, 3], object))
    with pytest.raises(InputError, match=r"plain arrays \(name: Object arrays"):
        read_features(path)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("features")
    np.save(tmp_path / "single.npy", np.zeros((3, 4)))
    for name in ("text.npz", "single.npy"):
        with pytest.raises(InputError, match=r"cannot be read as an \.npz"):
            read_features(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        read_features(tmp_path / "absent.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InputError, match=r"pipe\.npz is not a regular file"):
        read_features(tmp_path / "pipe.npz")


def test_a_truncated_file_is_refused(tmp_path):
    path = save(tmp_path / "f.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"cannot be read as an \.npz"):
        read_features(path)


def header(dtype, shape):
    content = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, fields)
    return content.getvalue()


def deep():
    text = b"-" * 9000 + b"1\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (header("<f8", (3, 10**12)) + bytes(96), "96 bytes are not float64 of shape"),
        (header("<f8", (3, 3)) + bytes(96), "96 bytes are not float64 of shape"),
        (header("<f8", (-3, -4)) + bytes(96), "cannot be read"),
        (header("<U0", (10**9, 1)), "0 bytes are not <U0 of shape"),
        (b"\x93NUMPY\x03\x00" + bytes(9), r"version \(3, 0\)"),
        (deep(), "cannot be read"),
    ],
)
def test_an_array_has_the_bytes_that_it_declares(tmp_path, features, message):
    path = save(tmp_path / "f.npz", features=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("features.npy", features)
    with pytest.raises(InputError, match=f"features: .*{message}|{message}"):
        read_features(path)


def test_whatever_is_in_a_header_it_is_read_or_refused_in_one_line(tmp_path):
    with zipfile.ZipFile(save(tmp_path / "f.npz", source=np.array("me"))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(300):
        name = rng.choice(list(members))
        content = bytearray(members[name])
        start = rng.integers(128)
        content[start : start + rng.integers(9)] = rng.bytes(rng.integers(9))
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            for other in members:
                archive.writestr(other, content if other == name else members[other])
        try:
            read_features(tmp_path / "x.npz")
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert "\n" not in "".join(refused)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_unread(tmp_path):
    path = save(tmp_path / "f.npz", features=None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", header("<f4", (3, 2**28)))
    content = bytearray(path.read_bytes())
    listed = content.rindex(b"PK\x01\x02")  # the member's entry in the list
    content[listed + 24 : listed + 28] = struct.pack("<I", 3 * 2**30 + 128)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"3,221,225,600 bytes, expected no more than"):
        read_features(path)


def test_compressed_features_are_read(tmp_path):
    np.savez_compressed(tmp_path / "f.npz", **GOOD)
    np.testing.assert_array_equal(
        read_features(tmp_path / "f.npz").features, GOOD["features"]
    )


def test_more_images_than_can_be_evaluated_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_IMAGES", 2)
    with pytest.raises(InputError, match="3 rows, expected no more than 2"):
        read_features(save(tmp_path / "f.npz"))


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    records = Records(**{key: GOOD[key] for key in GOOD if key != "features"})
    for path in (tmp_path / "file" / "f.npz", tmp_path, "/dev/null"):
        with pytest.raises(InputError, match="cannot be written"):
            write_features(path, GOOD["features"], records, "")
