"""Writes a data set as array_record through TFDS, completely or not at all."""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mbn_jax.data.catalog import VERSION, info, is_prepared, path_of
from mbn_jax.data.checks import Checked, unchanged
from mbn_jax.data.manifest import Manifest, Row, number
from mbn_jax.data.sixteen_bits import Scale, as_texts
from mbn_jax.data.sources import task_of
from mbn_jax.errors import InputError
from mbn_jax.files import check_writable, make_folder, move_durably
from mbn_jax.text import progress

# A shard of photographs is some ten megabytes, and a data set has few shards to open.
_IMAGES_PER_SHARD = 4000
_MADE_AT_ONCE = 64
_NUM_THREADS = 2


def write(
    dataset: str,
    manifest: Manifest,
    data_dir: str | os.PathLike,
    *,
    checked: Checked | None = None,
) -> None:
    """Writes a data set, unless it is prepared already.

    It is written under another name and renamed once it is complete and on the disk, so
    that an interrupted preparation is never taken for a data set; what an earlier one
    has left is removed. Of several processes one writes and the others wait.

    Args:
        dataset: its name.
        manifest: its rows, split by split.
        data_dir: the directory of all prepared data sets.
        checked: from `check_images`, if the images are files.

    Raises:
        InputError: its directory cannot be written to, or an image has changed since it
            was checked.
    """
    if is_prepared(dataset, data_dir):
        return
    checked = checked or Checked()
    directory = path_of(dataset, data_dir).parent
    check_writable(directory)
    # TFDS gives such a name to the directory that it writes, and we to ours around it.
    leftovers = f"incomplete.*_{VERSION}"
    try:
        make_folder(directory)
        with _alone(directory, dataset) as alone:
            if is_prepared(dataset, data_dir):  # by the process that was waited for
                if manifest.make is None:
                    check_same(dataset, manifest, data_dir, checked)
                return
            # Another process may be writing what looks like a leftover.
            for leftover in directory.glob(leftovers) if alone else ():
                shutil.rmtree(leftover)
            with tempfile.TemporaryDirectory(
                dir=directory, prefix="incomplete.", suffix=f"_{VERSION}"
            ) as written:
                _write(dataset, manifest, Path(written), checked)
                move_durably(path_of(dataset, written), path_of(dataset, data_dir))
    except (OSError, RuntimeError) as error:
        # array_record has no other exception; it names the file that cannot be written.
        if isinstance(error, RuntimeError) and str(directory) not in str(error):
            raise
        if is_prepared(dataset, data_dir):  # without a lock, another one was faster
            return
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        raise InputError(
            f"The data set {dataset} cannot be written to {directory} ({reason}); give"
            " a data directory on a disk with room that you may write to."
        ) from error


def check_same(
    dataset: str, manifest: Manifest, data_dir: str | os.PathLike, checked: Checked
) -> None:
    """Checks that prepared data are those of a manifest.

    Raises:
        InputError: they are others.
    """
    scales = _scales_in_use(manifest, checked)
    expected = fingerprint(manifest.rows, checked.digests, scales)
    if info(dataset, data_dir).fingerprint != expected:
        raise InputError(
            f"{path_of(dataset, data_dir)} holds other data of the name {dataset};"
            " delete that directory to prepare it with these rows, images and scales of"
            " 16 bits, or give your data set another name."
        )


def fingerprint(
    rows: Sequence[Row],
    digests: Mapping[str, bytes],
    scales: Mapping[str, Scale] | None = None,
) -> str:
    """Returns a hash of all rows and all images, in their order, as 64 digits.

    Args:
        rows: of the data set.
        digests: SHA-256 of each image, by its path.
        scales: of images of 16 bits by modality, where it is not "auto".
    """
    total = hashlib.sha256()
    for row in rows:
        total.update("\0".join(row).encode() + b"\0" + digests[row.path])
    for modality, scale in as_texts(scales or {}).items():
        total.update(f"\0{modality}\0{scale}".encode())
    return total.hexdigest()


def _scales_in_use(manifest: Manifest, checked: Checked) -> Mapping[str, Scale]:
    return manifest.scales if checked.num_sixteen_bits else {}


def _write(dataset: str, manifest: Manifest, data_dir: Path, checked: Checked) -> None:
    builder = _Builder(dataset, manifest, data_dir, checked)
    # TFDS would show a bar without a total for every split, also in log files. It makes
    # a directory for downloads, though there are none: inside ours, the next
    # preparation removes it after a kill.
    tfds.display_progress_bar(False)
    try:
        with tempfile.TemporaryDirectory(dir=data_dir) as downloads:
            builder.download_and_prepare(
                file_format="array_record",
                download_dir=downloads,
                # No bucket has to be asked for a ready-made copy.
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
    finally:
        tfds.display_progress_bar(True)


class _DatasetInfo(tfds.core.DatasetInfo):
    """The metadata that TFDS writes."""

    def initialize_from_bucket(self) -> None:
        """Keeps TFDS from a bucket, which would leave an empty temporary folder."""


class _Builder(  # type: ignore[call-arg]
    tfds.core.ShardBasedBuilder, skip_registration=True
):
    """Writes the images of a manifest in its order, and does not change their bytes.

    TFDS would hold the examples of a generator in memory to shuffle them; here shard
    after shard is written, and an image is read when its turn comes.
    """

    VERSION = tfds.core.Version(VERSION)
    # TFDS 4.9.10 finds this by way of importlib_resources, which it does not install.
    code_path = Path(__file__)

    def __init__(
        self, dataset: str, manifest: Manifest, data_dir: Path, checked: Checked
    ) -> None:
        self.name, _, config = dataset.partition("/")
        self._dataset, self._manifest, self._checked = dataset, manifest, checked
        self._identities = number(row.identity for row in manifest.rows)
        self._cameras = number(row.camera for row in manifest.rows)
        self._digests: dict[str, bytes] = {}
        super().__init__(data_dir=data_dir, config=config or None)

    @classmethod
    def get_builder_config(
        cls, name: str, version: Any = None
    ) -> tfds.core.BuilderConfig:
        """Returns a configuration of any name; TFDS itself would print a warning."""
        return tfds.core.BuilderConfig(name=name)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            # JPEG would be used for arrays; files keep their own encoding.
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "identity": np.int32,
            "camera": np.int32,
            "modality": np.int32,
            "name": tfds.features.Text(),
        }
        return _DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description=f"Images of several modalities for {task_of(self._dataset)}.",
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        verb = "Render" if self._manifest.make else "Convert"
        doing, done, total = f"{verb}ing", f"{verb}ed", len(self._manifest.rows)
        with (
            progress(doing, done, self._dataset, total) as advance,
            ThreadPoolExecutor(_NUM_THREADS) as pool,
        ):
            self._advance, self._pool = advance, pool
            super()._download_and_prepare(dl_manager, download_config)
        self.info.metadata.update(self._metadata())

    def _metadata(self) -> dict[str, Any]:
        deep = self._checked.num_sixteen_bits
        scales = _scales_in_use(self._manifest, self._checked)
        sixteen_bits = {"images": deep, "scales": as_texts(scales)} if deep else {}
        return {
            "dataset": self._dataset,
            "modalities": self._manifest.modalities,
            "counts": self._manifest.counts(),
            "fingerprint": fingerprint(self._manifest.rows, self._digests, scales),
            "task": task_of(self._dataset),
            "identities": _unlike_numbers(self._identities),
            "cameras": _unlike_numbers(self._cameras),
            "settings": self._manifest.settings,
            "sixteen_bits": sixteen_bits,
        }

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[Any]]]]:
        def shards(rows: Sequence[Row]) -> list[Callable[[], Iterator[Any]]]:
            return [
                functools.partial(self._examples, rows[start:][:_IMAGES_PER_SHARD])
                for start in range(0, len(rows), _IMAGES_PER_SHARD)
            ]

        manifest = self._manifest
        return {split: shards(manifest.of(split)) for split in manifest.splits}

    def _examples(self, rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
        modalities = list(self._manifest.modalities)
        for start in range(0, len(rows), _MADE_AT_ONCE):
            some = rows[start : start + _MADE_AT_ONCE]
            for row, image in zip(some, self._pool.map(self._image, some), strict=True):
                example = {
                    "image": image,
                    "identity": self._identities[row.identity],
                    "camera": self._cameras[row.camera],
                    "modality": modalities.index(row.modality),
                    "name": row.path,
                }
                yield row.path, example
                self._advance()

    def _image(self, row: Row) -> bytes | str:
        """The bytes that were made, or the path of a file.

        TFDS reads a path when it writes the record, and keeps the examples of a shard
        until its end to count them: photographs would fill the memory.
        """
        if self._manifest.make is None:
            digest = self._digests[row.path] = self._checked.digests[row.path]
            return os.fspath(unchanged(self._manifest.root / row.path, digest))
        encoded = self._manifest.make(row)
        self._digests[row.path] = hashlib.sha256(encoded).digest()
        return encoded

    def _log_download_bytes(self) -> None:
        """Keeps TFDS from announcing a download: there is none."""

    def _log_download_done(self) -> None:
        """As above; the progress bar has said that the images are there."""


def _unlike_numbers(number_of: Mapping[str, int]) -> dict[str, int]:
    return {text: value for text, value in number_of.items() if text != str(value)}


@contextlib.contextmanager
def _alone(directory: Path, title: str) -> Iterator[bool]:
    """Keeps other processes from writing in a directory until it ends.

    Yields whether there is a lock: some network file systems have none for directories.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield _lock(descriptor, title)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, title: str) -> bool:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process is preparing {title}; waiting", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
