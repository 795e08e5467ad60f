"""An exported network gives what the network gives, from a file of its own."""

import dataclasses
import json
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
    DESCRIPTION,
    PROGRAM,
    load_exported,
    save_exported,
)
from mbn_jax.errors import InputError
from mbn_jax.models.weights import fingerprint

from ..models.test_variants import EVERYTHING, filled, small

INFRARED = 1


def pictures(count, size=(32, 16)):
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    model = small()
    return model, filled(model)


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    """An exported model for infrared pictures, which tests only read."""
    path = tmp_path_factory.mktemp("exported") / "infrared.zip"
    save_exported(path, export(*network, INFRARED))
    return path


@pytest.mark.parametrize(("count", "size"), [(1, (32, 16)), (4, (50, 30))])
def test_any_number_of_pictures_of_any_size_has_the_features_of_the_network(
    network, path, count, size
):
    images = pictures(count, size)
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
    features = np.asarray(exported.call(pictures(4)))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    expected = mbn_jax.embed(*network, pictures(4), INFRARED)
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
    features = jax.jit(inference_function(half, variables, modality))(pictures(4))
    assert features.dtype == np.float32
    expected = mbn_jax.embed(model, variables, pictures(4), modality)
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


def test_pictures_of_the_other_modality_are_refused(path):
    exported = load_exported(path)
    for modality in (0, [1, 0], "visible"):
        with pytest.raises(InputError, match=r"visible, but .* for infrared ones"):
            mbn_jax.embed(exported, {}, pictures(2), modality)


THREE = ("visible", "nir", "thermal")


@pytest.mark.parametrize("fields", [{}, {"norm": "bn", "stem": "separate"}])
def test_each_of_three_modalities_has_an_exported_model_that_knows_them_all(
    fields, tmp_path
):
    model = small(modalities=THREE, **fields)
    variables = filled(model)
    save_exported(tmp_path / "nir.zip", export(model, variables, 1))
    exported = load_exported(tmp_path / "nir.zip")
    assert exported.modalities == THREE
    assert exported.modality == 1
    found = mbn_jax.embed(exported, {}, pictures(4), "nir")
    expected = [mbn_jax.embed(model, variables, pictures(4), name) for name in THREE]
    np.testing.assert_allclose(found, expected[1], rtol=0, atol=1e-5)
    for other in (expected[0], expected[2]):
        assert np.abs(found - other).max() > 0.01
    with pytest.raises(InputError, match=r"are visible and thermal, but .* for nir"):
        mbn_jax.embed(exported, {}, pictures(3), [0, 2, 1])
    with pytest.raises(InputError, match=r"0 \(visible\), 1 \(nir\) or 2 \(thermal\)"):
        inference_function(model, variables, 3)


def test_a_checkpoint_of_a_file_is_refused(path):
    with pytest.raises(InputError, match="no checkpoint 'best'"):
        mbn_jax.load(path, "best")


@pytest.mark.parametrize("damage", ["cut", "byte", "foreign", "other_zip", "missing"])
def test_a_damaged_or_foreign_file_is_refused(path, tmp_path, damage):
    content = bytearray(path.read_bytes())
    bad = tmp_path / "bad.zip"
    if damage == "byte":
        content[len(content) // 2] ^= 1
    contents = {"cut": content[:-1000], "byte": content, "foreign": b"no zip at all"}
    if damage in contents:
        bad.write_bytes(contents[damage])
    elif damage == "other_zip":
        with zipfile.ZipFile(bad, "w") as archive:
            archive.writestr("other.txt", "something else")
    unreadable = "" if damage == "missing" else " as an exported network"
    with pytest.raises(InputError, match=rf"bad\.zip cannot be read{unreadable} \("):
        load_exported(bad)


def changed(path, other, change=lambda written: written, program=None, **options):
    """Another file, with a changed description or another program."""
    with zipfile.ZipFile(path) as archive:
        written = change(json.loads(archive.read(DESCRIPTION)))
        program = archive.read(PROGRAM) if program is None else bytes(program)
    with zipfile.ZipFile(other, "w", **options) as archive:
        archive.writestr(DESCRIPTION, json.dumps(written))
        archive.writestr(PROGRAM, program)
    return other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda written: [written], r"cannot be read \(it holds a list\)"),
        (
            lambda written: written | {"format": "mbn_jax.ExportedModel/3"},
            "does not describe a network of this version",
        ),
        (
            lambda written: {k: written[k] for k in written if k != "image_size"},
            "does not describe a network of this version",
        ),
        (
            lambda written: written | {"format": "mbn_jax.ExportedModel/2"},
            "does not describe a network of this version",
        ),
        (lambda written: written | {"modality": "thermal"}, "modality 'thermal'"),
        (
            lambda written: written | {"modalities": ["infrared"] * 2},
            "modalities .'infrared', 'infrared'.",
        ),
        (lambda written: written | {"modalities": "infrared"}, "modalities 'infrared'"),
        (lambda written: written | {"modality": ["visible"]}, "modality .'visible'"),
        (lambda written: written | {"image_size": [32]}, r"image_size \[32\]"),
        (lambda written: written | {"image_size": 32}, "image_size 32"),
        (lambda written: written | {"image_size": [9999, 1]}, r"image_size \[9999, 1"),
        (lambda written: written | {"network": None}, "network None"),
        (
            lambda written: written | dict(modality="a\n", modalities=["a\n", "b"]),
            r"modality 'a\\n'",
        ),
    ],
    ids=[
        *("list", "other_version", "missing_key", "last_version", "unknown_modality"),
        *("one_name_twice", "no_list_of_names"),
        *(
            "two_modalities",
            "one_length",
            "no_size",
            "too_large",
            "no_fingerprint",
            "two_lines",
        ),
    ],
)
def test_a_description_of_something_else_is_refused(path, tmp_path, change, message):
    other = changed(path, tmp_path / "other.zip", change)
    with pytest.raises(InputError, match=rf"network\.json in .*other\.zip.*{message}"):
        load_exported(other)


def test_a_compressed_file_is_not_unpacked(path, tmp_path):
    bomb = changed(path, tmp_path / "x.zip", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"network\.json is compressed by method 8"):
        load_exported(bomb)


def test_a_description_that_is_nested_without_end_is_refused(path, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(DESCRIPTION, b"[" * 60_000)
        archive.writestr(PROGRAM, b"")
    with pytest.raises(InputError, match=r"network\.json in .* cannot be read"):
        load_exported(tmp_path / "x.zip")


def test_no_flipped_bit_is_loaded(path, tmp_path):
    """It is an error, or in a field of the archive that nobody reads."""
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    expected = load_exported(path)
    refused = 0
    for bit in rng.choice(8 * len(content), 100, replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "x.zip").write_bytes(flipped)
        try:
            found = load_exported(tmp_path / "x.zip")
        except InputError:
            refused += 1
        else:
            assert found.exported.serialize() == expected.exported.serialize()
            assert found.modalities == expected.modalities
    assert refused > 95


def flat(images):
    return images.reshape(images.shape[0], -1).astype(jnp.float32)


def program(function=flat, size=(32, 16), batch="b", **replaced):
    """An exported function, some fields of which are said to be others."""
    (batch,) = jax.export.symbolic_shape(batch)
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
    exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda"))(images)
    return dataclasses.replace(exported, **replaced).serialize()


def avals(function=flat):
    exported = jax.export.deserialize(bytearray(program(function)))
    return dict(out_avals=exported.out_avals)


def endless(images):
    return jax.lax.while_loop(lambda x: x[0, 0] > -1, lambda x: x + 1, flat(images))


def outside(images):
    return flat(images) + jnp.linalg.eigh(jnp.eye(2))[0][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "unpack_from"),
        (lambda: program(size=(32, 32)), r"expected \(b, 32, 32, 3\) and called with"),
        (lambda: program(batch="2*b"), "do not match the polymorphic shapes"),
        (lambda: program(batch="2"), r"expected \(2, 32, 16, 3\) and called with"),
        (lambda: program(lambda x: flat(x)[:1]), "of 3 images it gives"),
        (lambda: program(lambda x: (flat(x), flat(x))), "of 1 images it gives"),
        (lambda: program(lambda x: flat(x).astype(int)), "of 1 images it gives"),
        (lambda: program(lambda x: flat(x).ravel()), "of 1 images it gives"),
        (lambda: program(lambda x: flat(x)[:, :0]), "of 1 images it gives"),
        (lambda: program(lambda x: flat(x) @ flat(x).T), "depends on the number"),
        (
            lambda: program(lambda x: flat(x)[:1], **avals()),
            r"other types, i32, \?x32x16x3xui8, 1x1536xf32",
        ),
        (
            lambda: program(lambda x: flat(x).astype(int), **avals()),
            r"other types, i32, \?x32x16x3xui8, \?x1536xi32",
        ),
        (lambda: program(endless), "has a loop, which may never end"),
        (lambda: program(outside), "calls something outside of it"),
        (lambda: program(mlir_module_serialized=b"no"), "Failed to deserialize"),
        (lambda: program(platforms=("cpu", "rocm")), "it is for cpu, rocm"),
        (lambda: program(nr_devices=2), "it is for several devices"),
    ],
    ids=[
        *("empty", "other_size", "even_batches", "one_batch", "one_row", "two_values"),
        *("integers", "vector", "no_columns", "length_by_batch", "one_row_hidden"),
        *("integers_hidden", "loop", "call", "no_program", "platforms", "devices"),
    ],
)
def test_a_program_that_is_not_what_its_description_says_is_refused(
    path, tmp_path, make, message
):
    other = changed(path, tmp_path / "x.zip", program=make())
    with pytest.raises(InputError, match=rf"network\.stablehlo in .*x\.zip.*{message}"):
        load_exported(other)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.log(-flat(x) - 1), "features of image 0 that are not finite"),
        (lambda x: flat(x) / (x.shape[0] - 2), "features of image 0 that are not fini"),
        (lambda x: flat(x)[::2], r"cannot be run .*refining shapes"),
    ],
    ids=["nan", "infinity", "half_the_rows"],
)
def test_what_a_program_gives_is_checked_when_it_has_run(
    path, tmp_path, function, message
):
    hostile = program(function, **avals())
    exported = load_exported(changed(path, tmp_path / "x.zip", program=hostile))
    with pytest.raises(InputError, match=message):
        mbn_jax.embed(exported, {}, pictures(2), INFRARED)


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
