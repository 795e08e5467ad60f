"""A file that is not what it should be is refused."""

import dataclasses
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mbn_jax
from mbn_jax.deploy.exported import (
    DESCRIPTION,
    PROGRAM,
    load_exported,
)
from mbn_jax.errors import InputError

from .conftest import INFRARED, noise


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
        mbn_jax.embed(exported, {}, noise(2), INFRARED)
