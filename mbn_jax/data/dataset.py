"""The splits of a prepared data set, whose records are read in any order.

A prepared data set is a folder of array_record files that TFDS has written
(`mbn_jax.data.writer`), with metadata beside them. TFDS is imported only when a data
set is opened, and TensorFlow is never imported.

TFDS takes four times as long to parse a record as the code here (docs/benchmarks.md),
since it asks every feature for its type, shape and decoder each time. So records are
taken from it as they are stored, as ``tf.train.Example`` messages.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.data.catalog import Info, check_prepared, info, is_prepared, path_of
from mbn_jax.data.sixteen_bits import AUTO, Scale, scale_from_text
from mbn_jax.data.sources import source_of
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import GALLERY_ONLY, QUERY_ONLY, Records

_LABELS = ("identity", "camera", "modality")

# Records whose labels are read at once: it takes a third of the time of reading them
# one by one, and more records do not make it faster.
_CHUNK = 256

# array_record checks a sum over each record and has one exception for everything;
# protobuf's is a ValueError. A file that was cut off after it was opened has empty
# records or none.
_DAMAGED = (RuntimeError, ValueError, IndexError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split(Records):
    """One split of a data set: its labels in memory, its images where they are stored.

    Attributes:
        dataset: for example "synthetic_vireid/nir".
        split: for example "train", or the sum "train+val".
        source: ``source[i]["image"]`` is the encoded image of record i, as bytes.
        info: metadata of the data set; None for records that are not from a data set.
        scales: of images of 16 bits, by the index of their modality, if not `AUTO`.
        damaged: what was left out, because it cannot be read: a phrase on each record.
    """

    dataset: str
    split: str
    source: Sequence[Any]
    info: Info | None = None
    scales: Mapping[int, Scale] = dataclasses.field(default_factory=dict)
    damaged: tuple[str, ...] = ()

    @property
    def identity_names(self) -> np.ndarray:
        """The identity of each record as its data set writes it, (N,) str."""
        return _texts(self.identity, self.info.identities if self.info else {})

    @property
    def camera_names(self) -> np.ndarray:
        """The camera of each record as its data set writes it, (N,) str."""
        return _texts(self.camera, self.info.cameras if self.info else {})

    def encoded_image(self, index: int) -> bytes:
        """Returns the image file of a record."""
        return self.source[int(index)]["image"]

    def scale(self, index: int) -> Scale:
        """Returns how the image of a record is scaled if it has 16 bits."""
        return self.scales.get(int(self.modality[index]), AUTO)

    def select(self, indices: np.ndarray, **changes: Any) -> "Split":
        """Returns some of the records, (n,) integers, in the order asked for."""
        return dataclasses.replace(
            self,
            source=_Chosen(self.source, indices),
            identity=self.identity[indices],
            camera=self.camera[indices],
            modality=self.modality[indices],
            name=self.name[indices],
            role=None if self.role is None else self.role[indices],
            **changes,
        )

    def without_damaged(self, damaged: dict[int, str], skip: bool) -> "Split":
        """Leaves out records that cannot be read, given by index with a phrase on each.

        Raises:
            InputError: there are some, and they are not to be skipped.
        """
        if not damaged:
            return self
        phrases = [damaged[index] for index in sorted(damaged)]
        if not skip:
            several = f", one of {len(phrases)} such" if len(phrases) > 1 else ""
            raise InputError(
                f"{phrases[0]}{several}; delete the folder of the data set and prepare"
                " it again (a new run with --config.data.skip_damaged can leave out"
                " damaged records of training and validation, but never those of the"
                " test)."
            )
        whole = np.delete(np.arange(len(self)), sorted(damaged))
        return self.select(whole, damaged=(*self.damaged, *phrases))


@dataclasses.dataclass(frozen=True)
class _Chosen(Sequence):
    """Some of the records of a source."""

    source: Sequence[Any]
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.source[int(self.indices[index])]


def training_split(dataset: str) -> str:
    """Returns what is trained on: "train", or "train+val" as in the literature."""
    source = source_of(dataset)
    return source.training if source else "train"


def validation_split(dataset: str, data_dir: str | os.PathLike) -> str | None:
    """Returns the split that is like the test, with other identities: "val" or None.

    Raises:
        InputError: it is a data set of the user's own that is not prepared.
    """
    source = source_of(dataset)
    if source:
        return source.validation
    return "val" if "val" in info(dataset, data_dir).counts else None


def load_split(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike,
    *,
    skip_damaged: bool = False,
) -> Split:
    """Opens a split; data that can be made on this machine are prepared if needed.

    Args:
        dataset: for example "sysu_mm01", or the name of the user's own data.
        split: "train", "val" or "test", where the data set has it, or a sum such as
            "train+val": the records of both, in this order. Where a data set has query
            and gallery images in place of test ones, "test" is both.
        data_dir: the directory of all prepared data sets.
        skip_damaged: leave records out that cannot be read, instead of refusing.

    Raises:
        InputError: a name is not known, the directory cannot be written to, the data
            set is not prepared, or a record is damaged.
    """
    ensure_prepared(dataset, data_dir)
    known = info(dataset, data_dir)
    stored = split
    if split == "test" and "test" not in known.counts:
        stored = "query+gallery"
    parts = stored.split("+")
    if not (set(parts) <= set(known.counts) and len(set(parts)) == len(parts)):
        raise InputError(
            f"There is no split {split!r} of {dataset}; it has"
            f" {', '.join(known.counts)}."
        )
    folder = path_of(dataset, data_dir)
    source = Examples(folder, stored, f"{dataset}/{split}")
    expected = sum(sum(known.counts[part].values()) for part in parts)
    if len(source) != expected:
        raise InputError(
            f"The data set in {folder} is not complete ({len(source):,} records of"
            f" {dataset}/{split}, but {expected:,} according to its metadata.json);"
            " delete that folder and prepare the data set again."
        )
    role = None
    if stored == "query+gallery":
        num_queries = sum(known.counts["query"].values())
        role = np.where(np.arange(len(source)) < num_queries, QUERY_ONLY, GALLERY_ONLY)
    scales = known.sixteen_bits.get("scales", {})
    labels, damaged = source.labels()
    opened = Split(
        dataset=dataset,
        split=split,
        source=source,
        info=known,
        scales={
            index: scale_from_text(scales[modality])
            for index, modality in enumerate(known.modalities)
            if modality in scales
        },
        modalities=known.modalities,
        role=role,
        **labels,
    )
    return opened.without_damaged(damaged, skip_damaged)


def ensure_prepared(dataset: str, data_dir: str | os.PathLike) -> None:
    """Prepares data that can be made on this machine, unless they are prepared.

    Raises:
        InputError: the name is not known, the directory cannot be written to, or the
            data set cannot be made here, and is not prepared.
    """
    source = source_of(dataset)
    if is_prepared(dataset, data_dir):
        return
    if source and source.make and source.knows(dataset):
        from mbn_jax.data.writer import write

        write(dataset, source.make(dataset), data_dir)
    check_prepared(dataset, data_dir)


class Examples(Sequence[Any]):
    """The records of a split, each read from its file when it is asked for.

    ``examples[i]`` is a dictionary with ``image``, an encoded image as bytes,
    ``identity``, ``camera`` and ``modality``, int, and ``name``, str;
    ``examples[i:j]`` is a list of them. Any number of threads may read. A record that
    cannot be read raises `InputError`, also if its file was whole when it was opened.
    """

    def __init__(self, folder: Path, split: str, title: str) -> None:
        """Opens a split, or a sum of splits, of the folder that TFDS has written.

        Raises:
            InputError: what TFDS has written beside the records is missing or damaged.
        """
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            self._serialized = tfds.builder_from_directory(folder).as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except Exception as error:  # TFDS has a dozen, of itself, protobuf and JSON
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise InputError(
                f"The data set in {folder} is not complete ({reason}); delete that"
                " folder and prepare the data set again."
            ) from error
        self._message = tf_example_pb2.Example.FromString
        self._where = f"{title} in {folder}"

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self._serialized)

    def __getitem__(self, index: Any) -> Any:
        # A range knows what indices and slices mean, and which are out of bounds.
        index = range(len(self))[index]
        if isinstance(index, range):
            try:
                return [
                    self._parsed(one) for one in self._serialized.__getitems__(index)
                ]
            except _DAMAGED:
                return [self[one] for one in index]  # names the one that it is
        try:
            return self._parsed(self._serialized[index])
        except _DAMAGED as error:
            reason = " ".join(str(error).split()).partition(";")[0]
            if isinstance(error, IndexError):
                reason = "its file ends before this record"
            raise InputError(
                f"Record {index} of {self._where} is damaged"
                f" ({reason}); delete that folder, prepare the data set again, and"
                " start the same command again."
            ) from error

    def labels(self) -> tuple[dict[str, Any], dict[int, str]]:
        """Reads the labels of all records.

        Returns:
            ``identity``, ``camera`` and ``modality`` (N,) int32 and ``name`` (N,) str;
            and for every record that cannot be read, whose labels are 0, what is wrong,
            in a phrase.
        """
        numbers = np.zeros((len(_LABELS), len(self)), np.int32)
        names = [""] * len(self)
        damaged: dict[int, str] = {}

        def keep(index: int, record: dict[str, Any]) -> None:
            numbers[:, index] = [record[label] for label in _LABELS]
            names[index] = record["name"]

        for start in range(0, len(self), _CHUNK):
            chunk = range(len(self))[start : start + _CHUNK]
            try:
                for index, record in zip(
                    chunk, self[start : start + _CHUNK], strict=True
                ):
                    keep(index, record)
            except InputError:
                for index in chunk:
                    try:
                        keep(index, self[index])
                    except InputError as error:
                        damaged[index] = str(error).partition(";")[0]
        labels: dict[str, Any] = dict(zip(_LABELS, numbers, strict=True))
        return labels | {"name": np.array(names, str)}, damaged

    def _parsed(self, serialized: bytes) -> dict[str, Any]:
        feature = self._message(serialized).features.feature
        record = {label: feature[label].int64_list.value[0] for label in _LABELS}
        return record | {
            "name": feature["name"].bytes_list.value[0].decode(),
            "image": feature["image"].bytes_list.value[0],
        }


def _texts(numbers: np.ndarray, number_of: Mapping[str, int]) -> np.ndarray:
    text_of = {number: text for text, number in number_of.items()}
    return np.array([text_of.get(n, str(n)) for n in numbers.tolist()], str)
