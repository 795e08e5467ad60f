"""Reading what TFDS has prepared: records at random, and all their labels.

For TFDS to parse a record takes longer than to read it, four times as long as here
(docs/benchmarks.md): it asks every feature for its type, shape and decoder each time.
So records are taken from it as they are stored, ``tf.train.Example`` messages.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.errors import InputError

_LABELS = ("identity", "camera", "modality")

# Records whose labels are read at once. To read many in one call takes a third of the
# time of reading them one by one; with more than this it is not less.
_CHUNK = 256

# array_record checks a sum over each record, and has one exception for all that is
# wrong; protobuf's is a ValueError. A file that was cut off after it was opened has
# empty records or none.
_DAMAGED = (RuntimeError, ValueError, IndexError)


class Examples(Sequence[Any]):
    """The records of a split, each read from its file when it is asked for.

    ``examples[i]`` is a dictionary with ``image``, an encoded image as bytes,
    ``identity``, ``camera`` and ``modality``, int, and ``name``, str;
    ``examples[i:j]`` is a list of them. Any number of threads may read. A record that
    cannot be read raises `InputError`, also if its file was whole when it was opened.
    """

    def __init__(self, serialized: Any, title: str, folder: Path) -> None:
        """Wraps a source of serialized ``tf.train.Example`` messages.

        Args:
            serialized: the source.
            title: of the split, for errors.
            folder: in which its files are, for errors.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        self._serialized = serialized
        self._message = tf_example_pb2.Example.FromString
        self._title, self._folder = title, folder

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
                reason = "its file ends before it"
            raise InputError(
                f"Record {index} of {self._title} in {self._folder} is damaged"
                f" ({reason}); delete that folder, prepare the data set again, and"
                " start the same command again."
            ) from error

    def _parsed(self, serialized: bytes) -> dict[str, Any]:
        feature = self._message(serialized).features.feature
        record = {label: feature[label].int64_list.value[0] for label in _LABELS}
        return record | {
            "name": feature["name"].bytes_list.value[0].decode(),
            "image": feature["image"].bytes_list.value[0],
        }


def open_examples(
    folder: Path, split: str, title: str
) -> tuple[Examples, dict[str, Any], dict[int, str]]:
    """Opens a split of a prepared data set.

    Args:
        folder: in which TFDS has written it, as array_record.
        split: name of the split, or a sum of names.
        title: of the data set and the split, for errors.

    Returns:
        The records by index, whose ``"image"`` is an encoded image; the labels of all
        of them, ``identity``, ``camera`` and ``modality`` (N,) int32 and ``name`` (N,)
        str; and for every record that cannot be read, what is wrong, in a phrase: its
        labels are 0.

    Raises:
        InputError: what TFDS has written beside the records is missing or damaged.
    """
    import tensorflow_datasets as tfds

    try:
        serialized = tfds.builder_from_directory(folder).as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    except Exception as error:  # TFDS has a dozen kinds, of itself, protobuf and JSON
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"The data set in {folder} is not complete ({reason}); delete that folder"
            " and prepare the data set again."
        ) from error
    source = Examples(serialized, title, folder)
    numbers = np.zeros((len(_LABELS), len(source)), np.int32)
    names: list[str] = []
    damaged: dict[int, str] = {}
    for start in range(0, len(source), _CHUNK):
        for index, record in enumerate(_read_chunk(source, start), start):
            if isinstance(record, str):
                damaged[index] = record
                names.append("")
                continue
            numbers[:, index] = [record[label] for label in _LABELS]
            names.append(record["name"])
    labels: dict[str, Any] = dict(zip(_LABELS, numbers, strict=True))
    return source, labels | {"name": np.array(names, str)}, damaged


def _read_chunk(source: Examples, start: int) -> list[Any]:
    """The records of a chunk; in place of one that cannot be read, why."""
    stop = min(start + _CHUNK, len(source))
    try:
        return source[start:stop]
    except InputError:
        return [_read(source, index) for index in range(start, stop)]


def _read(source: Examples, index: int) -> Any:
    try:
        return source[index]
    except InputError as error:
        return str(error).partition(";")[0]
