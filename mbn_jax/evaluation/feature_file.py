"""Features in a file, so that those of any framework can be evaluated.

docs/feature-files.md describes the format.
"""

import io
import math
import tokenize
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mbn_jax import archive
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import Records
from mbn_jax.files import check_file, write_atomically
from mbn_jax.modalities import DEFAULT
from mbn_jax.text import one_line

_LABELS = ("identity", "camera", "modality", "name")
_ROLES = ("query and gallery", "query only", "gallery only")
_LARGEST = np.iinfo(np.int32).max
# Of images, and bytes of the arrays, unpacked; docs/feature-files.md says them.
_MOST_IMAGES = 10_000_000
_MOST_BYTES = (
    {"features": 2 * 2**30}
    | dict.fromkeys((*_LABELS, "role"), 128 * 2**20)
    | dict.fromkeys(("modalities", "source"), 64 * 2**10)
)
# NumPy has Python parse the header of an array. MemoryError: it is nested too deep.
_HEADER_ERRORS = (TypeError, MemoryError, SyntaxError, tokenize.TokenError)
_LAST_CHARACTER = 0x10FFFF


class FeatureFile(NamedTuple):
    """What a file holds.

    Attributes:
        features: (N, D) float32.
        records: N of them.
        source: what the features are of, for people; empty if the file does not say.

    Characters of texts that a terminal does not show are escapes, such as "\\x1b".
    """

    features: np.ndarray
    records: Records
    source: str


def write_features(
    path: str | Path, features: np.ndarray, records: Records, source: str
) -> None:
    """Writes features with their records as an ``.npz``, whole or not at all.

    Args:
        path: of the file; its directory must exist.
        features: (N, D) floating.
        records: N of them.
        source: what the features are of, for people.

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
    """Reads features and their records, and checks them.

    Args:
        path: an ``.npz`` of ``features`` (N, D) floating, ``identity``, ``camera`` and
            ``modality``, each (N,) integer, and ``name`` (N,), the paths in the data
            set's folder. Optional arrays are ``modalities`` (M,), the names of the
            modalities by index, without which they are visible and infrared; ``role``
            (N,) integer, see `Records`; and ``source``, a string.

    Returns:
        The features and the records.

    Raises:
        InputError: the file cannot be read, an array is missing, is larger than
            docs/feature-files.md says or is not as above, a feature is not finite, or a
            name occurs twice.
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
    for label in (*_LABELS, "role") if "role" in arrays else _LABELS:
        if arrays[label].shape != (count,):
            raise InputError(
                f"{label} of {path} has shape {arrays[label].shape}, but features has "
                f"{count} rows; give one {label} for each."
            )
    with np.errstate(over="ignore"):
        features = features.astype(np.float32, copy=False)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise InputError(
            f"features of {path} holds NaN, infinity or a number beyond float32 in "
            f"row {row} ({_names(path, arrays['name'])[row]}); look at what wrote them."
        )
    modalities = _modalities(path, arrays.get("modalities"))
    _check_integers(path, "identity", arrays["identity"])
    _check_integers(path, "camera", arrays["camera"])
    _check_integers(path, "modality", arrays["modality"], modalities)
    if "role" in arrays:
        _check_integers(path, "role", arrays["role"], _ROLES)
    name = _names(path, arrays["name"])
    names, times = np.unique(name, return_counts=True)
    if names.size < count:
        twice = names[np.argmax(times)]
        raise InputError(
            f"name of {path} holds '{twice}' {times.max()} times; write every image "
            "once."
        )
    records = Records(
        identity=arrays["identity"].astype(np.int32),
        camera=arrays["camera"].astype(np.int32),
        modality=arrays["modality"].astype(np.int32),
        name=name,
        modalities=modalities,
        role=arrays["role"].astype(np.int32) if "role" in arrays else None,
    )
    return FeatureFile(features, records, _source(path, arrays.get("source")))


def _read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    wanted = ("features", *_LABELS)
    reading = "the file"
    arrays = {}
    most_bytes = {f"{name}.npy": most for name, most in _MOST_BYTES.items()}
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
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}; an .npz with "
            f"{', '.join(wanted)} is expected."
        )
    return arrays


def _read_array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Reads an array whose shape and type fit the bytes that are there."""
    with file.open(member) as content:
        version = np.lib.format.read_magic(content)
        if version not in ((1, 0), (2, 0)):  # 3 is for names of fields
            raise ValueError(f"version {version} of the format is not for plain arrays")
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(content)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(content)
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


def _check_integers(
    path: str | Path, label: str, values: np.ndarray, meanings: Sequence[str] = ()
) -> None:
    """Raises `InputError` unless values are integers from 0 on, each with a meaning."""
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"{label} of {path} is {values.dtype}, but integers are expected; convert "
            "it with astype(int)."
        )
    largest = len(meanings) - 1 if meanings else _LARGEST
    outside = np.unique(values[(values < 0) | (values > largest)])
    if outside.size:
        known = ", ".join(f"{i} {meaning}" for i, meaning in enumerate(meanings))
        raise InputError(
            f"{label} of {path} holds {outside[0]}, but it must lie in 0..{largest}"
            + (f" ({known})." if meanings else ".")
        )


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
            f"{label} of {path} holds what is not Unicode; write it as "
            "numpy.array(texts, str)."
        )
    return texts.tolist()
