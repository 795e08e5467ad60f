"""Features of images: extracted by a network, or in a file of any framework.

docs/feature-files.md describes the format of the files.
"""

import functools
import io
import math
import tokenize
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mbn_jax import archive
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import Records
from mbn_jax.files import check_file, write_atomically
from mbn_jax.mesh import process_rows, replicated, shard
from mbn_jax.modalities import DEFAULT
from mbn_jax.text import one_line

_LABELS = ("identity", "camera", "modality", "name")
_ROLES = ("query and gallery", "query only", "gallery only")
# Limits of a file: images, and bytes of the arrays when they are unpacked.
# docs/feature-files.md states them.
_MOST_IMAGES = 10_000_000
_MOST_BYTES = (
    {"features": 2 * 2**30}
    | dict.fromkeys((*_LABELS, "role"), 128 * 2**20)
    | dict.fromkeys(("modalities", "source"), 64 * 2**10)
)
# NumPy has Python parse the header of an array. MemoryError: it is nested too deep.
_HEADER_ERRORS = (TypeError, MemoryError, SyntaxError, tokenize.TokenError)
_LAST_CHARACTER = 0x10FFFF


def batch_rows(num_images: int, batch_size: int, mesh: Mesh | None) -> list[np.ndarray]:
    """Which images this process reads for every batch of all processes.

    Args:
        num_images: N, of all processes together.
        batch_size: of all of them, rounded up to a multiple of the mesh's devices.
        mesh: the batches are cut over its axis `data`; None for one device.

    Returns:
        For every batch the indices, rising, int64; none where the last batch has no
        image left for this process.
    """
    batch_size, rows = _rows(batch_size, mesh)
    batches = [start + rows for start in range(0, num_images, batch_size)]
    return [batch[batch < num_images] for batch in batches]


def _rows(batch_size: int, mesh: Mesh | None) -> tuple[int, np.ndarray]:
    """The size of a batch of all processes, and the rows of this one."""
    if mesh is None:
        return batch_size, np.arange(batch_size)
    batch_size += -batch_size % mesh.size
    return batch_size, process_rows(batch_size, mesh)


def extract(
    apply_fn: Callable[[jax.Array, jax.Array], jax.Array],
    images: Iterable[np.ndarray],
    modality: np.ndarray,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Applies a network to many images, batch by batch, in evaluation mode.

    Every batch has the same size on the device, so that the network is compiled once:
    the last one is filled up with black images, whose features are dropped.

    Args:
        apply_fn: a jitted function from images (b, H, W, 3), uint8, and modalities
            (b,), int32, to features (b, D); no image affects the features of another.
        images: the images (n, H, W, 3), uint8, of every entry of `batch_rows`.
        modality: (N,) int, of all the images in their order.
        batch_size: b, rounded up to a multiple of the mesh's devices.
        mesh: the batch is sharded over its axis `data`; on one device if None.

    Returns:
        (N, D) float32, as the network gives them, the same in every process.

    Raises:
        InputError: there is no image, or the modality is not one integer for each.
    """
    modality = np.asarray(modality)
    if modality.size == 0:
        raise InputError("There is no image to embed: give at least one.")
    if modality.ndim != 1 or not jnp.issubdtype(modality.dtype, jnp.integer):
        raise InputError(
            f"The modality is {modality.dtype}{list(modality.shape)}, but one integer "
            "for each image is expected."
        )
    # A wrapped index would name another modality; -1 is one that does not exist.
    narrow = modality.astype(np.int32)
    modality = np.where(narrow == modality, narrow, np.int32(-1))
    rows_here = len(_rows(batch_size, mesh)[1])
    place: Any = jax.device_put
    collect: Any = jnp.asarray
    if mesh is not None:
        place = functools.partial(shard, mesh)
        collect = jax.jit(collect, out_shardings=replicated(mesh))

    def padded(values: np.ndarray) -> np.ndarray:
        missing = rows_here - len(values)
        return np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))

    features: list[Any] = []
    all_rows = batch_rows(len(modality), batch_size, mesh)
    for batch, rows in zip(images, all_rows, strict=True):
        placed = place({"images": padded(batch), "modality": padded(modality[rows])})
        features.append(collect(apply_fn(placed["images"], placed["modality"])))
        # The device works on this batch while the host fetches the one before it;
        # without the wait all batches would be queued in device memory.
        features[-2:-1] = jax.device_get(features[-2:-1])
    together = np.concatenate(jax.device_get(features))
    return together[: len(modality)].astype(np.float32)


class FeatureFile(NamedTuple):
    """The content of a file of features.

    Characters of texts that a terminal does not show are escapes, such as "\\x1b".

    Attributes:
        features: (N, D) float32.
        records: N of them.
        source: says what the features are of; empty if the file does not say it.
    """

    features: np.ndarray
    records: Records
    source: str


def write_features(
    path: str | Path, features: np.ndarray, records: Records, source: str
) -> None:
    """Writes features with their records as an `.npz`, whole or not at all.

    Args:
        path: path of the file; its directory must exist.
        features: (N, D) floating.
        records: N of them.
        source: says what the features are of, for people.

    Raises:
        InputError: the file cannot be written.
    """
    check_file(path)
    buffer = io.BytesIO()
    labels = {label: getattr(records, label) for label in _LABELS}
    labels["modalities"] = np.array(records.modalities)
    if records.role is not None:
        labels["role"] = records.role
    np.savez(buffer, features=features, source=np.array(source), **labels)
    try:
        write_atomically(Path(path), buffer.getvalue())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder "
            "that you may write to."
        ) from error


def read_features(path: str | Path) -> FeatureFile:
    """Reads and checks a file of features, as docs/feature-files.md describes it.

    Raises:
        InputError: the file cannot be read, an array is missing, is too large or is not
            as described, a feature is not finite, or a name occurs twice.
    """
    arrays = _read_arrays(path)
    features = arrays.pop("features")
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise InputError(
            f"features of {path} is {features.dtype} of shape {features.shape}, but a "
            "floating-point matrix (N, D) is expected, one row for each image."
        )
    count = len(features)
    if features.size == 0:
        raise InputError(f"features of {path} is empty; write one row for each image.")
    if count > _MOST_IMAGES:
        raise InputError(
            f"features of {path} has {count:,} rows, expected no more than "
            f"{_MOST_IMAGES:,}; write several files."
        )
    labels = [label for label in (*_LABELS, "role") if label in arrays]
    for label in labels:
        if arrays[label].shape != (count,):
            raise InputError(
                f"{label} of {path} has shape {arrays[label].shape}, but features has "
                f"{count} rows; give one {label} for each."
            )
    with np.errstate(over="ignore"):  # infinity is refused below
        features = features.astype(np.float32, copy=False)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise InputError(
            f"features of {path} holds NaN, infinity or a number beyond float32 in "
            f"row {row} ({_names(path, arrays['name'])[row]}); look at what wrote them."
        )
    modalities = _modalities(path, arrays.get("modalities"))
    meanings = {"modality": modalities, "role": _ROLES}
    integers = {
        label: _integers(path, label, arrays[label], meanings.get(label, ()))
        for label in labels
        if label != "name"
    }
    name = _names(path, arrays["name"])
    names, times = np.unique(name, return_counts=True)
    if names.size < count:
        raise InputError(
            f"name of {path} holds '{names[np.argmax(times)]}' {times.max()} times; "
            "write every image once."
        )
    records = Records(**integers, name=name, modalities=modalities)
    return FeatureFile(features, records, _source(path, arrays.get("source")))


def _read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    wanted = ("features", *_LABELS)
    most_bytes = {f"{name}.npy": most for name, most in _MOST_BYTES.items()}
    arrays, reading = {}, "the file"
    try:
        with archive.open_archive(path) as file:
            found = archive.members(file, most_bytes, compressed=True)
            for name, member in found.items():
                reading = name.removesuffix(".npy")
                arrays[reading] = _read_array(file, member)
    except InputError:  # a ValueError, which says all
        raise
    except (*archive.ERRORS, *_HEADER_ERRORS) as error:
        raise InputError(
            f"{path} cannot be read as an .npz of plain arrays ({reading}: "
            f"{' '.join(str(error).split())}); "
            "write it by numpy.savez(path, features=…, identity=…, camera=…, "
            "modality=…, name=…), where name is numpy.array(names, str)."
        ) from error
    if missing := [name for name in wanted if name not in arrays]:
        raise InputError(
            f"{path} lacks {', '.join(missing)}; an .npz with "
            f"{', '.join(wanted)} is expected."
        )
    return arrays


def _read_array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Reads an array whose shape and type fit the bytes that are there."""
    with file.open(member) as content:
        version = np.lib.format.read_magic(content)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:  # 3 is for names of fields
            raise ValueError(f"version {version} of the format is not for plain arrays")
        shape, _, dtype = read_header(content)
        there = member.file_size - content.tell()
        if not dtype.hasobject and (
            math.prod(shape) * dtype.itemsize != there or math.prod(shape) > there
        ):
            raise ValueError(f"{there:,} bytes are not {dtype} of shape {shape}")
    with file.open(member) as content:
        return np.lib.format.read_array(content, allow_pickle=False)


def _modalities(path: str | Path, names: np.ndarray | None) -> tuple[str, ...]:
    if names is None:
        return DEFAULT
    is_list = names.ndim == 1 and names.dtype.kind == "U"
    texts = _texts(path, "modalities", names) if is_list else []
    found = tuple(map(one_line, texts))
    if len(found) < 2 or len(set(found)) < len(found) or not all(found):
        raise InputError(
            f"modalities of {path} is {names.dtype} of shape {names.shape}, but two or "
            "more different names are expected; write them as numpy.array(names, str)."
        )
    return found


def _integers(
    path: str | Path, label: str, values: np.ndarray, meanings: Sequence[str]
) -> np.ndarray:
    """Returns integers from 0 on as int32; if there are meanings, each has one."""
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"{label} of {path} is {values.dtype}, but integers are expected; convert "
            "it with astype(int)."
        )
    largest = len(meanings) - 1 if meanings else np.iinfo(np.int32).max
    outside = np.unique(values[(values < 0) | (values > largest)])
    if outside.size:
        known = ", ".join(f"{i} {meaning}" for i, meaning in enumerate(meanings))
        raise InputError(
            f"{label} of {path} holds {outside[0]}, but it must lie in 0..{largest}"
            + (f" ({known})." if meanings else ".")
        )
    return values.astype(np.int32)


def _source(path: str | Path, source: np.ndarray | None) -> str:
    if source is None:
        return ""
    if source.ndim:
        raise InputError(
            f"source of {path} has shape {source.shape}, but one string is expected; "
            "write it as numpy.array(text, str)."
        )
    return one_line(_texts(path, "source", source.reshape(1))[0])


def _names(path: str | Path, names: np.ndarray) -> np.ndarray:
    """Names with forward slashes."""
    texts = _texts(path, "name", names)
    return np.array([one_line(text.replace("\\", "/")) for text in texts], str)


def _texts(path: str | Path, label: str, texts: np.ndarray) -> list[str]:
    """Texts (N,), whether they were written as str or as bytes."""
    if texts.dtype.kind not in "SU":
        raise InputError(
            f"{label} of {path} is {texts.dtype}, but strings are expected; write it "
            "as numpy.array(texts, str)."
        )
    if texts.dtype.kind == "S":
        try:
            return [text.decode() for text in texts.tolist()]
        except UnicodeDecodeError as error:
            raise InputError(
                f"{label} of {path} holds {error.object!r}, which is not UTF-8; write "
                "it as numpy.array(texts, str)."
            ) from error
    # NumPy makes strings of any numbers, which Python's functions do not expect.
    codes = np.frombuffer(texts.astype(texts.dtype.newbyteorder("=")).tobytes(), "u4")
    if codes.max(initial=0) > _LAST_CHARACTER:
        raise InputError(
            f"{label} of {path} holds text that is not Unicode; write it as "
            "numpy.array(texts, str)."
        )
    return texts.tolist()
