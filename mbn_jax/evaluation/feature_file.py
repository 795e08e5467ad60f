"""Features in a file, so that those of any framework can be evaluated.

docs/feature-files.md describes the format.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import Records
from mbn_jax.files import write_atomically
from mbn_jax.modalities import DEFAULT

_LABELS = ("identity", "camera", "modality", "name")
_OPTIONAL = ("modalities", "role", "source")
_ROLES = ("query and gallery", "query only", "gallery only")
_LARGEST = np.iinfo(np.int32).max


class FeatureFile(NamedTuple):
    """What a file holds.

    Attributes:
        features: (N, D) float32.
        records: N of them.
        source: what the features are of, for people; empty if the file does not say.
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
        InputError: the file cannot be read, an array is missing or is not as above, a
            feature is not finite, or a name occurs twice.
    """
    arrays = _read_arrays(path)
    features = arrays["features"]
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise InputError(
            f"features of {path} is {features.dtype} of shape {features.shape}, but a "
            "floating-point matrix (N, D) is expected, one row for each image."
        )
    count = len(features)
    if features.size == 0:
        raise InputError(f"features of {path} is empty; write one row for each image.")
    for label in (*_LABELS, "role") if "role" in arrays else _LABELS:
        if arrays[label].shape != (count,):
            raise InputError(
                f"{label} of {path} has shape {arrays[label].shape}, but features has "
                f"{count} rows; give one {label} for each."
            )
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise InputError(
            f"features of {path} holds NaN, infinity or a number beyond float32 in "
            f"row {row} ({_text(arrays['name'])[row]}); look at what wrote them."
        )
    modalities = _modalities(path, arrays.get("modalities"))
    _check_integers(path, "identity", arrays["identity"])
    _check_integers(path, "camera", arrays["camera"])
    _check_integers(path, "modality", arrays["modality"], modalities)
    if "role" in arrays:
        _check_integers(path, "role", arrays["role"], _ROLES)
    name = _text(arrays["name"])
    names, times = np.unique(name, return_counts=True)
    if names.size < count:
        twice = names[np.argmax(times)]
        raise InputError(
            f"name of {path} holds {str(twice)!r} {times.max()} times; write every "
            "image once."
        )
    records = Records(
        identity=arrays["identity"].astype(np.int32),
        camera=arrays["camera"].astype(np.int32),
        modality=arrays["modality"].astype(np.int32),
        name=name,
        modalities=modalities,
        role=arrays["role"].astype(np.int32) if "role" in arrays else None,
    )
    return FeatureFile(features, records, str(arrays.get("source", "")))


def _read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    wanted = ("features", *_LABELS)
    reading = "the file"
    arrays = {}
    try:
        # Opened here: NumPy leaves a damaged file open.
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no archive of arrays")
            loaded = np.load(file, allow_pickle=False)
            for reading in set(loaded) & {*wanted, *_OPTIONAL}:
                arrays[reading] = loaded[reading]
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; give the .npz file of the features."
        ) from error
    # What NumPy and zipfile raise for files that are damaged or something else.
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read as an .npz of plain arrays ({reading}: {error}); "
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


def _modalities(path: str | Path, names: np.ndarray | None) -> tuple[str, ...]:
    if names is None:
        return DEFAULT
    found = tuple(names.tolist()) if names.ndim == 1 and names.dtype.kind == "U" else ()
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


def _text(names: np.ndarray) -> np.ndarray:
    """Names as str, whether they were written as bytes or not, with forward slashes."""
    if names.dtype.kind not in "SU":
        raise InputError(
            f"name of the features is {names.dtype}, but strings are expected: the "
            "paths of the images in the data set's tree."
        )
    return np.char.replace(names.astype(str), "\\", "/")
