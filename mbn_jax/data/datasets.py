"""The data sets by name, as splits that can be read at random.

Behind each name is a TFDS builder in a folder of its own. TFDS is imported only where a
data set is prepared or opened, and TensorFlow never.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from mbn_jax.data.records import Records
from mbn_jax.data.source import open_source
from mbn_jax.errors import InputError

DATASETS = ("synthetic_vireid/nir", "synthetic_vireid/thermal")
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split(Records):
    """One split of a data set: its labels in memory, its images where they are stored.

    Attributes:
        dataset: for example "synthetic_vireid/nir".
        split: "train", "val" or "test".
        source: ``source[i]["image"]`` is the encoded image of record i, as bytes.
    """

    dataset: str
    split: str
    source: Sequence[Any]

    def encoded_image(self, index: int) -> bytes:
        """Returns the image file of a record."""
        return self.source[int(index)]["image"]


def prepare(dataset: str, data_dir: str | os.PathLike) -> None:
    """Makes a data set readable in ``data_dir``, unless it is already.

    It is written under another name and renamed when complete, so that an interrupted
    preparation is never taken for a data set.

    Args:
        dataset: one of ``DATASETS``, or a sized variant of one.
        data_dir: the directory of all prepared data sets; made if need be.

    Raises:
        InputError: the name is not known, or the directory cannot be written to.
    """
    _prepared_builder(dataset, data_dir)


def load_split(dataset: str, split: str, data_dir: str | os.PathLike) -> Split:
    """Opens a split; the embedded data set is prepared first if it is not there.

    Args:
        dataset: one of ``DATASETS``, or a sized variant of one.
        split: one of ``SPLITS``.
        data_dir: the directory of all prepared data sets.

    Returns:
        The split with its labels in memory.

    Raises:
        InputError: a name is not known, or the directory cannot be written to.
    """
    if split not in SPLITS:
        raise InputError(
            f"There is no split {split!r} of {dataset}; it has {', '.join(SPLITS)}."
        )
    builder = _prepared_builder(dataset, data_dir)

    source, records = open_source(builder, split)
    return Split(dataset=dataset, split=split, source=source, **vars(records))


def _prepared_builder(dataset: str, data_dir: str | os.PathLike) -> Any:
    """The TFDS builder of a data set that is there to be read."""
    data_dir = pathlib.Path(data_dir).expanduser()
    builder = _builder(dataset, data_dir)
    if builder.data_path.exists():
        return builder
    _check_writable(data_dir)

    import tensorflow_datasets as tfds

    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except OSError as error:
        if builder.data_path.exists():  # another run was preparing it, too, and won
            return builder
        raise InputError(
            f"The data set {dataset} cannot be written to {data_dir}"
            f" ({error.strerror or error}); give a data directory on a disk with room"
            " that you may write to."
        ) from error
    return builder


def _builder(dataset: str, data_dir: pathlib.Path) -> Any:
    family, _, config = dataset.partition("/")
    if family != "synthetic_vireid":
        raise InputError(
            f"There is no data set {dataset!r}; the known ones are"
            f" {', '.join(DATASETS)}."
        )
    from mbn_jax.data.synthetic_vireid.config import config_from_name
    from mbn_jax.data.synthetic_vireid.synthetic_vireid_dataset_builder import Builder

    try:
        builder_config = config_from_name(config)
    except ValueError as error:
        raise InputError(
            f"There is no data set {dataset!r}; the known ones are"
            f" {', '.join(DATASETS)} ({error})"
        ) from error
    return Builder(config=builder_config, data_dir=data_dir)


def _check_writable(directory: pathlib.Path) -> None:
    """Refuses a directory that cannot be made or written to, before anything is."""
    existing = next(
        path for path in (directory, *directory.absolute().parents) if path.exists()
    )
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"The data directory {directory} cannot be written to ({existing} is"
            f" {'read-only' if existing.is_dir() else 'a file'}); give one that can."
        )
