"""Prepared data sets on disk: there as a whole, or not there."""

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mbn_jax.errors import InputError


def is_prepared(builder: Any) -> bool:
    """Whether the data set of a TFDS builder is there to be read."""
    return bool(builder.data_path.exists())


def check_writable(directory: Path) -> None:
    """Refuses a directory that cannot be made or written to, before anything is.

    Raises:
        InputError: names the directory, or what lies in its way.
    """
    existing = next(
        path for path in (directory, *directory.absolute().parents) if path.exists()
    )
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"The data directory {directory} cannot be written to ({existing} is"
            f" {'read-only' if existing.is_dir() else 'a file'}); give one that can."
        )


def check_room(directory: Path, num_bytes: int) -> None:
    """Refuses a disk that has not so many bytes free.

    Raises:
        InputError: says how many are needed and how many are free.
    """
    existing = next(
        path for path in (directory, *directory.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise InputError(
            f"The data need {num_bytes / 1e6:,.0f} MB, but the disk of {directory} has"
            f" {free / 1e6:,.0f} MB free; make room or give another data directory."
        )


def write(builder: Any) -> None:
    """Writes the data set of a TFDS builder, unless it is there.

    It is written under another name and renamed when complete, so that an interrupted
    preparation is never taken for a data set; what such a one has left is removed. Of
    several processes one writes and the others wait.

    Args:
        builder: the TFDS builder.

    Raises:
        InputError: its directory cannot be written to.
    """
    if is_prepared(builder):
        return
    directory = Path(builder.data_dir)
    check_writable(directory.parent)
    # What TFDS calls the directory that it writes.
    leftovers = f"incomplete.*_{directory.name}"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _alone(directory.parent, builder.info.full_name) as alone:
            if is_prepared(builder):
                return
            # Another process may be writing what looks like a leftover.
            for leftover in directory.parent.glob(leftovers) if alone else ():
                shutil.rmtree(leftover)
            # TFDS makes the directory of its downloads, and there are none.
            with tempfile.TemporaryDirectory() as downloads:
                builder.download_and_prepare(
                    file_format="array_record", download_dir=downloads
                )
    except (OSError, RuntimeError) as error:
        # array_record has no other exception; it names the file that cannot be written.
        if isinstance(error, RuntimeError) and str(directory.parent) not in str(error):
            raise
        if is_prepared(builder):  # where no lock is kept, another process was faster
            return
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        raise InputError(
            f"The data set {builder.info.full_name} cannot be written to"
            f" {directory.parent} ({reason}); give a data directory on a disk with room"
            " that you may write to."
        ) from error


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
