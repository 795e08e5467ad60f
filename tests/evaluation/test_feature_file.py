import numpy as np
import pytest

from mbn_jax.errors import InputError
from mbn_jax.evaluation.feature_file import (
    read_features,
    write_features,
)
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
    with pytest.raises(InputError, match="does not exist"):
        read_features(tmp_path / "absent.npz")


def test_a_truncated_file_is_refused(tmp_path):
    path = save(tmp_path / "f.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"cannot be read as an \.npz"):
        read_features(path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    records = Records(**{key: GOOD[key] for key in GOOD if key != "features"})
    with pytest.raises(InputError, match="cannot be written"):
        write_features(tmp_path / "file" / "f.npz", GOOD["features"], records, "")
