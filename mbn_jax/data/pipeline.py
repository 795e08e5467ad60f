"""From records to uint8 batches in memory: Grain's threads read, decode and resize.

A batch is one item of a random-access source, so that its number is all the state there
is: reading from ``start`` continues a run exactly.

The threads of an iterator end with it: when it is exhausted, closed, or dropped.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import grain
import numpy as np
from numpy.typing import ArrayLike

from mbn_jax.data.dataset import Split
from mbn_jax.data.images import decode
from mbn_jax.data.sampling import Sampler
from mbn_jax.errors import InputError

T = TypeVar("T")
# Images that are handed to a thread at once where the caller does not say.
_CHUNK = 64


def train_batches(
    split: Split,
    sampler: Sampler,
    image_size: tuple[int, int],
    *,
    start: int,
    stop: int,
    rows: slice | np.ndarray = slice(None),
    num_threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches ``start`` … ``stop - 1``, read ahead in threads.

    Args:
        split: the records.
        sampler: says which records make up a batch.
        image_size: (height, width) in pixels.
        start: number of the first batch; the number of steps done, to resume.
        stop: number after that of the last batch.
        rows: the rows of each batch that are read: those of this process.
        num_threads: 0 reads in the caller's thread, here and below.

    Yields:
        A dictionary with b rows: ``image`` (b, H, W, 3) uint8, and ``identity`` (class
        labels), ``modality`` and ``camera``, each (b,) int32.

    Raises:
        InputError: an image cannot be decoded; raised where its batch is asked for.
    """

    def read(index: int) -> dict[str, np.ndarray]:
        records = sampler.batch(start + index)[rows]
        return {
            "image": _read_images(split, records, image_size),
            "identity": sampler.class_of(records),
            "modality": split.modality[records].astype(np.int32),
            "camera": split.camera[records].astype(np.int32),
        }

    return _in_order(read, stop - start, num_threads)


def image_batches(
    split: Split,
    batches: Sequence[np.ndarray],
    image_size: tuple[int, int],
    *,
    num_threads: int = 2,
) -> Iterator[np.ndarray]:
    """Yields images (b, H, W, 3) uint8, read ahead in threads, for evaluation.

    A few batches are in memory at a time, however many images there are. Each of
    ``batches`` holds the indices of its records, (b,) integers.

    Raises:
        InputError: an image cannot be decoded; raised where its batch is asked for.
    """

    def read(index: int) -> np.ndarray:
        return _read_images(split, batches[index], image_size)

    return _in_order(read, len(batches), num_threads)


def load_images(
    split: Split,
    indices: ArrayLike,
    image_size: tuple[int, int],
    *,
    num_threads: int = 2,
) -> np.ndarray:
    """Reads the images of some records, (n,) integers, into one array.

    Returns:
        (n, H, W, 3) uint8, in the order of ``indices``; it must fit into memory.

    Raises:
        InputError: an image cannot be decoded.
    """
    indices = np.asarray(indices)
    images = np.empty((len(indices), *image_size, 3), np.uint8)
    chunks = _in_chunks(indices)
    batches = image_batches(split, chunks, image_size, num_threads=num_threads)
    for index, batch in enumerate(batches):
        images[index * _CHUNK :][: len(batch)] = batch
    return images


def damaged_images(
    split: Split, indices: np.ndarray, *, num_threads: int = 2
) -> dict[int, str]:
    """Decodes images once, so that a damaged one shows now and not hours later.

    Returns:
        What is wrong with each that cannot be decoded, by its index.
    """
    chunks = _in_chunks(indices)

    def check(chunk: int) -> dict[int, str]:
        wrong = {}
        for index in chunks[chunk]:
            try:
                _read_images(split, np.array([index]), (16, 16))
            except InputError as error:
                wrong[int(index)] = str(error).partition(";")[0]
        return wrong

    found: dict[int, str] = {}
    for wrong in _in_order(check, len(chunks), num_threads):
        found |= wrong
    return found


def _in_chunks(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]


def _read_images(
    split: Split, indices: np.ndarray, image_size: tuple[int, int]
) -> np.ndarray:
    images = np.empty((len(indices), *image_size, 3), np.uint8)
    for image, index in zip(images, indices, strict=True):
        # Straight into the batch: to copy each image into it costs a tenth.
        decode(
            split.encoded_image(index),
            image_size,
            f"{split.name[index]} of {split.dataset}/{split.split}",
            scale=split.scale(index),
            max_megapixels=math.inf,  # the limit is for files that are not prepared yet
            out=image,
        )
    return images


class _Source:
    """What Grain reads from: item i is the value of a function at i."""

    def __init__(self, item: Callable[[int], object], length: int) -> None:
        self._item, self._length = item, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> object:
        return self._item(int(index))


def _in_order(item: Callable[[int], T], length: int, num_threads: int) -> Iterator[T]:
    """Yields item(0), item(1), …, worked out ahead of need by Grain's threads."""
    if length <= 0:
        return
    options = grain.ReadOptions(
        num_threads=num_threads,
        # Enough to bridge a slow batch, and no more: a batch is megabytes.
        prefetch_buffer_size=2 * num_threads,
    )
    dataset = grain.MapDataset.source(_Source(item, length))
    iterator = iter(dataset.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()
