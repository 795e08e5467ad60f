"""An exported network gives what the network gives, from a file of its own."""

import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mbn_jax
from mbn_jax.deploy import export as export_module
from mbn_jax.deploy.export import export, export_checked, inference_function
from mbn_jax.deploy.exported import (
    PROGRAM,
    load_exported,
    save_exported,
)
from mbn_jax.errors import InputError
from mbn_jax.models.weights import fingerprint

from ..models.test_reid import EVERYTHING, filled, small
from .conftest import INFRARED, noise


@pytest.mark.parametrize(("count", "size"), [(1, (32, 16)), (4, (50, 30))])
def test_any_number_of_images_of_any_size_has_the_features_of_the_network(
    network, path, count, size
):
    images = noise(count, size)
    exported, variables = mbn_jax.load(path)
    assert variables == {}
    found = mbn_jax.embed(exported, variables, images, INFRARED)
    expected = mbn_jax.embed(*network, images, INFRARED)
    assert found.shape == (count, 32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(expected - mbn_jax.embed(*network, images, 0)).max() > 0.01


def test_the_program_alone_needs_nothing_of_this_library(network, path):
    with zipfile.ZipFile(path) as archive:
        exported = jax.export.deserialize(bytearray(archive.read(PROGRAM)))
    assert exported.platforms == ("cpu", "cuda")
    features = np.asarray(exported.call(noise(4)))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    expected = mbn_jax.embed(*network, noise(4), INFRARED)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "modality"),
    [
        (dict(norm="bn"), 1),
        (dict(norm="bn", stem="separate"), 0),
        (EVERYTHING, 1),
    ],
    ids=["bn", "bn_with_two_stems", "everything"],
)
def test_every_form_is_one_function_in_single_precision(fields, modality):
    model = small(**fields)
    variables = filled(model)
    half = model.copy(dtype=jnp.bfloat16)
    features = jax.jit(inference_function(half, variables, modality))(noise(4))
    assert features.dtype == np.float32
    expected = mbn_jax.embed(model, variables, noise(4), modality)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


def test_both_modalities_of_a_network_have_its_fingerprint(network, path):
    model, variables = network
    statistics = jax.tree.map(lambda leaf: 2 * leaf, variables["batch_stats"])
    adapted = {**variables, "batch_stats": statistics}
    assert load_exported(path).network == export(model, adapted, 0).network
    assert load_exported(path).network == fingerprint(adapted)
    assert fingerprint(filled(model, seed=1)) != fingerprint(variables)


def test_what_cannot_be_folded_is_refused(network, path):
    model, variables = network
    with pytest.raises(InputError, match="is a ExportedModel and cannot be folded"):
        inference_function(load_exported(path), {}, INFRARED)
    with pytest.raises(InputError, match="was done before"):
        inference_function(model.copy(norm="none"), variables, INFRARED)
    with pytest.raises(InputError, match=r"modality is 2, but 0 \(visible\) or 1"):
        inference_function(model, variables, 2)
    strange = {**variables, "batch_stats": {"conv": np.zeros((2, 3), np.float32)}}
    with pytest.raises(InputError, match="cannot be folded: batch_stats holds no"):
        inference_function(model, strange, INFRARED)


def test_images_of_the_other_modality_are_refused(path):
    exported = load_exported(path)
    for modality in (0, [1, 0], "visible"):
        with pytest.raises(InputError, match=r"visible, but .* for infrared ones"):
            mbn_jax.embed(exported, {}, noise(2), modality)


THREE = ("visible", "nir", "thermal")


@pytest.mark.parametrize("fields", [{}, {"norm": "bn", "stem": "separate"}])
def test_each_of_three_modalities_has_an_exported_model_that_knows_them_all(
    fields, tmp_path
):
    model = small(modalities=THREE, **fields)
    variables = filled(model)
    exported = export(model, variables, 1, platforms=("cpu",))
    save_exported(tmp_path / "nir.zip", exported)
    exported = load_exported(tmp_path / "nir.zip")
    assert exported.modalities == THREE
    assert exported.modality == 1
    found = mbn_jax.embed(exported, {}, noise(4), "nir")
    expected = [mbn_jax.embed(model, variables, noise(4), name) for name in THREE]
    np.testing.assert_allclose(found, expected[1], rtol=0, atol=1e-5)
    for other in (expected[0], expected[2]):
        assert np.abs(found - other).max() > 0.01
    with pytest.raises(InputError, match=r"are visible and thermal, but .* for nir"):
        mbn_jax.embed(exported, {}, noise(3), [0, 2, 1])
    with pytest.raises(InputError, match=r"0 \(visible\), 1 \(nir\) or 2 \(thermal\)"):
        inference_function(model, variables, 3)


def test_a_program_tells_nothing_of_the_machine_that_wrote_it(path):
    content = path.read_bytes()
    assert b".py" not in content
    for folder in (Path(mbn_jax.__file__).parents[1], Path(sys.prefix), Path.home()):
        assert len(folder.parts) < 2 or f"{folder}/".encode() not in content
    assert jax.config.jax_traceback_in_locations_limit != 0


def test_a_file_that_differs_from_its_network_is_not_kept(
    network, tmp_path, monkeypatch
):
    output = tmp_path / "infrared.zip"
    output.write_bytes(b"of an earlier export")
    monkeypatch.setattr(export_module, "BATCH_SIZES", (4,))
    monkeypatch.setattr(export_module, "TOLERANCE", 1e-12)
    with pytest.raises(InputError, match="features that differ by"):
        export_checked(*network, INFRARED, output)
    assert output.read_bytes() == b"of an earlier export"
    assert list(tmp_path.iterdir()) == [output]


def test_a_place_that_cannot_be_written_is_refused(network, path, monkeypatch):
    monkeypatch.setattr(export_module, "export", lambda *_: load_exported(path))
    for output in (path / "inside.zip", path.parent, "", ".", "/dev/null"):
        with pytest.raises(InputError, match="cannot be written"):
            export_checked(*network, INFRARED, output)
