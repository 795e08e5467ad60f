"""From a manifest to a prepared data set: all is checked, then all is written."""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mbn_jax.data import sources
from mbn_jax.data.dataset import VERSION, is_prepared, known_datasets, path_of
from mbn_jax.data.images import SIXTEEN_BITS, Checked, check_images, unchanged
from mbn_jax.data.manifest import Manifest, Row, check_labels, number, read_manifest
from mbn_jax.data.progress import progress
from mbn_jax.data.sources.source import Folders, Scan
from mbn_jax.errors import InputError
from mbn_jax.files import check_writable

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
# A shard of photographs is some ten megabytes, and a data set has few shards to open.
_IMAGES_PER_SHARD = 4000
_MADE_AT_ONCE = 64
_NUM_THREADS = 2


def prepare_data(
    dataset: str,
    data_dir: str | os.PathLike,
    *,
    folders: Folders | None = None,
    manifest: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    check_only: bool = False,
) -> None:
    """Checks the images and labels of a data set, and converts it if nothing is wrong.

    Says on standard error what it finds, and on standard output where the prepared data
    are.

    Args:
        dataset: a new name for a person's own data; or the name of a source's data set,
            or the part before the slash for all of them.
        data_dir: the directory of all prepared data sets.
        folders: of a source, by the flag that names them; not with ``manifest``.
        manifest: path of the CSV file of a person's own data.
        images: folder that its paths are relative to; None for that of the file.
        check_only: stop after the checks.

    Raises:
        InputError: the name is not known, something in the data has to be fixed, or the
            data directory cannot be written to.
    """
    names = _names(dataset, manifest)
    if not check_only:
        for name in [name for name in names if is_prepared(name, data_dir)]:
            print(
                f"{name} is prepared in {path_of(name, data_dir)} already; delete that"
                " directory to do it again."
            )
            names.remove(name)
        if not names:
            return
        check_writable(os.fspath(data_dir))
    scan = (
        _scan_source(dataset, names, folders or {})
        if manifest is None
        else _scan_manifest(dataset, manifest, images)
    )
    checked = _check(dataset, scan, manifest)
    if check_only:
        return
    # Every data set is a copy, and the labels need little.
    _check_room(data_dir, int(1.02 * checked.num_bytes) * len(names))
    for name in names:
        write(name, scan.manifests[name], data_dir, checked=checked)
    for name in names:
        print(f"{name} is prepared in {path_of(name, data_dir)}.")
    print(f"Next: {_next_command(names[0], data_dir)}")


def write(
    dataset: str,
    manifest: Manifest,
    data_dir: str | os.PathLike,
    *,
    checked: Checked | None = None,
) -> None:
    """Writes a data set, unless it is there.

    It is written under another name and renamed when complete, so that an interrupted
    preparation is never taken for a data set; what such a one has left is removed. Of
    several processes one writes and the others wait.

    Args:
        dataset: its name.
        manifest: its rows, split by split.
        data_dir: the directory of all prepared data sets.
        checked: of the images, where they are files.

    Raises:
        InputError: its directory cannot be written to, or an image has changed since it
            was checked.
    """
    if is_prepared(dataset, data_dir):
        return
    directory = path_of(dataset, data_dir).parent
    check_writable(directory)
    # What TFDS calls the directory that it writes.
    leftovers = f"incomplete.*_{VERSION}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory, dataset) as alone:
            if is_prepared(dataset, data_dir):
                return
            # Another process may be writing what looks like a leftover.
            for leftover in directory.glob(leftovers) if alone else ():
                shutil.rmtree(leftover)
            _write(dataset, manifest, Path(data_dir).expanduser(), checked)
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


def fingerprint(rows: Sequence[Row], digests: Mapping[str, bytes]) -> str:
    """Returns a hash over all rows and the bytes of all images, in their order.

    Args:
        rows: of the data set.
        digests: SHA-256 of each image, by its path.

    Returns:
        64 hexadecimal digits.
    """
    total = hashlib.sha256()
    for row in rows:
        total.update("\0".join(row).encode() + b"\0" + digests[row.path])
    return total.hexdigest()


def _names(dataset: str, manifest: object) -> list[str]:
    """The data sets that a name stands for."""
    source = sources.source_of(dataset)
    if manifest is not None:
        if source or not re.fullmatch(_NAME, dataset):
            taken = f"is a name of {source.name}" if source else "cannot be a name"
            raise InputError(
                f"{dataset!r} {taken}; give your data set a name of its own, of"
                " letters, digits, _, . and -."
            )
        return [dataset]
    if source and source.make:
        raise InputError(
            f"{dataset} needs no preparation: it is rendered when first used."
        )
    names = [dataset] if source and source.knows(dataset) else []
    if source and dataset == source.name:
        names = list(source.datasets)
    if not names:
        raise InputError(
            f"There is no data set {dataset!r} to prepare; the known ones are"
            f" {known_datasets()}, and images of your own need --manifest=FILE.csv."
        )
    return names


def _scan_source(dataset: str, names: Sequence[str], folders: Folders) -> Scan:
    source = sources.source_of(dataset)
    assert source is not None
    assert source.scan is not None
    missing = [flag for flag in source.folders if not folders.get(flag)]
    if missing:
        raise InputError(
            f"{dataset} is made from folders; give"
            f" {' and '.join(f'--{flag}=DIR' for flag in missing)}, too."
        )
    known = (*source.folders, *source.optional_folders)
    for flag in folders:
        if flag not in known:
            raise InputError(
                f"--{flag} does not go with --dataset={dataset}, which takes"
                f" {', '.join(f'--{name}' for name in known)}; leave it out."
            )
    return source.scan(folders, names)


def _scan_manifest(
    dataset: str, path: str | os.PathLike, images: str | os.PathLike | None
) -> Scan:
    manifest, findings = read_manifest(path, images)
    check_labels(manifest, findings)
    return Scan(root=manifest.root, manifests={dataset: manifest}, findings=findings)


def _check(dataset: str, scan: Scan, file: object) -> Checked:
    """Decodes all images, says what was found, and refuses problems."""
    findings = scan.findings
    stored = {
        row.path: position
        for manifest in scan.manifests.values()
        if manifest.make is None
        for position, row in enumerate(manifest.rows)
    }
    checked = Checked({}, 0, 0)
    if stored or scan.left_out:
        options: dict[str, Any] = {}
        if file is not None:
            (own,) = scan.manifests.values()
            options["place"] = lambda path: f"{file}, line {own.lines[stored[path]]}: "
            options["remedy"] = "replace it or remove its row from the manifest"
        checked = check_images(
            scan.root,
            list(stored),
            findings,
            title=dataset,
            left_out=scan.left_out,
            **options,
        )
    for name, manifest in scan.manifests.items():
        _print_sizes(name if len(scan.manifests) > 1 else "", manifest)
    findings.report()
    if findings.problems:
        what = f"{file}" if file is not None else f"{scan.root}"
        whole = "a data set" if file is not None else f"a complete copy of {dataset}"
        raise InputError(
            f"{what} is not {whole} (problems above: {len(findings.problems):,}), and"
            " nothing was written; fix them and start again."
        )
    print(f"No problems in {file if file is not None else scan.root}.", file=sys.stderr)
    return checked


def _print_sizes(name: str, manifest: Manifest) -> None:
    for split, of_modality in manifest.counts().items():
        identities = len({row.identity for row in manifest.of(split)})
        parts = [f"{count:,} {modality}" for modality, count in of_modality.items()]
        print(
            f"{name}{'/' * bool(name)}{split}: {sum(of_modality.values()):,} images of"
            f" {identities:,} identities, {', '.join(parts[:-1])} and {parts[-1]}",
            file=sys.stderr,
        )


def _next_command(dataset: str, data_dir: str | os.PathLike) -> str:
    source = sources.source_of(dataset)
    flags = (
        f"--config=experiments/configs/agw_mbn.py:{dataset}"
        if source and source.images_per_modality
        else f"--config.data.dataset={dataset}"
    )
    if Path(data_dir) != Path("data"):
        flags += f" --config.data.data_dir={data_dir}"
    workdir = f"runs/{dataset.replace('/split', '_').replace('/', '_')}"
    return f"python experiments/train.py --workdir={workdir} {flags}"


def _check_room(directory: str | os.PathLike, num_bytes: int) -> None:
    directory = Path(directory).expanduser().absolute()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise InputError(
            f"The data need {num_bytes / 1e6:,.0f} MB, but the disk of {directory} has"
            f" {free / 1e6:,.0f} MB free; make room or give another data directory."
        )


def _write(
    dataset: str, manifest: Manifest, data_dir: Path, checked: Checked | None
) -> None:
    builder = _Builder(dataset, manifest, data_dir, checked)
    # TFDS would show a bar without a total for every split, and write it into log
    # files; it makes the directory of its downloads, and there are none.
    tfds.display_progress_bar(False)
    try:
        with tempfile.TemporaryDirectory() as downloads:
            builder.download_and_prepare(
                file_format="array_record",
                download_dir=downloads,
                # No bucket has to be asked for a ready-made copy.
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
    finally:
        tfds.display_progress_bar(True)


class _Builder(  # type: ignore[call-arg]
    tfds.core.ShardBasedBuilder, skip_registration=True
):
    """Writes a manifest: the same order, the same bytes.

    TFDS would shuffle the examples of a generator and hold them in memory for it; here
    shard after shard is written, and an image is read when its turn comes.
    """

    VERSION = tfds.core.Version(VERSION)
    # TFDS 4.9.10 finds this by way of importlib_resources, which it does not install.
    code_path = Path(__file__)

    def __init__(
        self,
        dataset: str,
        manifest: Manifest,
        data_dir: Path,
        checked: Checked | None,
    ) -> None:
        self.name, _, config = dataset.partition("/")
        self._dataset, self._manifest = dataset, manifest
        self._task, self._checked = sources.task_of(dataset), checked
        self._identities = number(row.identity for row in manifest.rows)
        self._cameras = number(row.camera for row in manifest.rows)
        self._digests: dict[str, bytes] = {}
        super().__init__(data_dir=data_dir, config=config or None)

    @classmethod
    def get_builder_config(
        cls, name: str, version: Any = None
    ) -> tfds.core.BuilderConfig:
        """Returns a configuration of any name, which TFDS would warn of."""
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
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description=f"Images of several modalities for {self._task}.",
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        total = len(self._manifest.rows)
        doing = (
            ("Rendering", "Rendered")
            if self._manifest.make
            else ("Converting", "Converted")
        )
        with (
            progress(*doing, self._dataset, total) as advance,
            ThreadPoolExecutor(_NUM_THREADS) as pool,
        ):
            self._advance, self._pool = advance, pool
            super()._download_and_prepare(dl_manager, download_config)
        self.info.metadata.update(self._metadata())

    def _metadata(self) -> dict[str, Any]:
        deep = self._checked.num_sixteen_bits if self._checked else 0
        return {
            "dataset": self._dataset,
            "modalities": self._manifest.modalities,
            "counts": self._manifest.counts(),
            "fingerprint": fingerprint(self._manifest.rows, self._digests),
            "task": self._task,
            "identities": _unlike_numbers(self._identities),
            "cameras": _unlike_numbers(self._cameras),
            "settings": self._manifest.settings,
            "sixteen_bits": {"images": deep, "rule": SIXTEEN_BITS} if deep else {},
        }

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        def shards(rows: Sequence[Row]) -> list[Callable[[], Iterator[Any]]]:
            starts = range(0, len(rows), _IMAGES_PER_SHARD)
            parts = [rows[start : start + _IMAGES_PER_SHARD] for start in starts]
            return [functools.partial(self._examples, part) for part in parts]

        return {
            split: shards(self._manifest.of(split)) for split in self._manifest.splits
        }

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
            assert self._checked is not None
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
    """The texts that are not their numbers themselves."""
    return {text: value for text, value in number_of.items() if text != str(value)}


@contextlib.contextmanager
def _alone(directory: Path, title: str) -> Iterator[bool]:
    """Keeps other processes from writing in a directory; the lock ends with ours.

    Yields:
        Whether there is a lock: some network file systems have none for directories.
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
            print(f"Another process prepares {title}; waiting", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
