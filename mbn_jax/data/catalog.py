"""Data sets by name: where they are, whether they are prepared, and their metadata."""

import dataclasses
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbn_jax.data.sixteen_bits import scale_from_text
from mbn_jax.data.sources import check_name, known_datasets, source_of
from mbn_jax.errors import InputError
from mbn_jax.files import read_json

VERSION = "2.0.0"  # of the format in which data sets are stored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
    """The metadata of a prepared data set.

    Attributes:
        dataset: its name.
        modalities: their names by index.
        counts: images by split, then modality.
        fingerprint: hash over all rows and bytes, 64 hexadecimal digits.
        task: what is searched for, in a phrase.
        identities: numbers by text, for the texts that are not the numbers themselves.
        cameras: the same for the cameras.
        settings: those of the source that made it.
        sixteen_bits: how many images have 16 bits, and by modality the scales that are
            not "auto" (`mbn_jax.data.sixteen_bits`); empty if there are none.
    """

    dataset: str
    modalities: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    fingerprint: str
    task: str
    identities: Mapping[str, int]
    cameras: Mapping[str, int]
    settings: Mapping[str, Any]
    sixteen_bits: Mapping[str, Any]


def path_of(dataset: str, data_dir: str | os.PathLike) -> Path:
    """Returns the folder in which a data set is prepared, or would be.

    Raises:
        InputError: the directory is "", which is not the current one.
    """
    if not os.fspath(data_dir):  # Path would take it for the current directory
        raise InputError(
            "The directory of the prepared data is given as an empty text; name a"
            " directory (--data_dir, or --config.data.data_dir of train), or . for the"
            " current one."
        )
    return Path(data_dir).expanduser() / dataset / VERSION


def is_prepared(dataset: str, data_dir: str | os.PathLike) -> bool:
    """Returns whether a data set is prepared."""
    return path_of(dataset, data_dir).exists()


def check_prepared(dataset: str, data_dir: str | os.PathLike) -> None:
    """Raises `InputError` that says how to get a data set, unless it is prepared."""
    if is_prepared(dataset, data_dir):
        return
    check_name(dataset)
    source = source_of(dataset)
    here = shlex.quote(f"--data_dir={data_dir}")
    if source is None:
        raise InputError(
            f"There is no data set {dataset!r} in {Path(data_dir)}; prepare your own"
            f" images with `python -m mbn_jax prepare"
            f" {shlex.quote(f'--dataset={dataset}')} --manifest=FILE.csv {here}`, or"
            f" give one of {known_datasets()}."
        )
    absent = f"The data set {dataset} is not prepared in {path_of(dataset, data_dir)}"
    where = "--config.data.data_dir of train, --data_dir of evaluate"
    if source.make:
        raise InputError(
            f"{absent}; say where it is ({where}), or train on it, which makes it."
        )
    flags = " ".join(f"--{flag}=DIR" for flag in source.folders)
    raise InputError(
        f"{absent}: {source.ask} and run `python -m mbn_jax prepare"
        f" --dataset={dataset} {flags} {here}`; or say where it is prepared ({where})."
    )


def info(dataset: str, data_dir: str | os.PathLike) -> Info:
    """Returns the metadata of a prepared data set, without opening its records.

    Raises:
        InputError: it is not prepared, or its metadata cannot be read.
    """
    check_prepared(dataset, data_dir)
    path = path_of(dataset, data_dir) / "metadata.json"
    try:
        written = read_json(path)
        fields = {field.name: written[field.name] for field in dataclasses.fields(Info)}
        _check_types(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The metadata {path} of {dataset} cannot be read; delete the folder"
            f" {path.parent} and prepare the data set again."
        ) from error
    fields["modalities"] = tuple(fields["modalities"])
    return Info(**fields)


def _check_types(fields: Mapping[str, Any]) -> None:
    """Raises `TypeError` or `ValueError` for JSON that is no metadata."""
    modalities, counts = fields["modalities"], fields["counts"]
    texts = "dataset", "fingerprint", "task"
    tables = "identities", "cameras", "counts", "settings", "sixteen_bits"
    if not (
        all(isinstance(fields[name], str) for name in texts)
        and all(isinstance(fields[name], dict) for name in tables)
        and isinstance(modalities, list)
        and all(isinstance(name, str) for name in modalities)
        and _is_table(fields["identities"], int)
        and _is_table(fields["cameras"], int)
        and all(_is_table(of_split, int) for of_split in counts.values())
        # Every split counts the images of every modality, in the order of the indices.
        and all(list(of_split) == modalities for of_split in counts.values())
        and _is_table(scales := fields["sixteen_bits"].get("scales", {}), str)
    ):
        raise TypeError
    for text in scales.values():
        scale_from_text(text)


def _is_table(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(v, kind) for v in value.values())
