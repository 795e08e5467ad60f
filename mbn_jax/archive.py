"""Untrusted zip archives: what they declare is checked before it is read."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mbn_jax.files import regular_size

# What zipfile and the functions below raise for a file that is damaged, hostile or not
# an archive; zipfile raises RuntimeError for passwords and what is not implemented.
ERRORS = (
    *(OSError, ValueError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
_MOST_LISTED = 2**20
_ENCRYPTED = 1
# The record at the end of an archive: signature, size of the list of members, length of
# a comment. If the archive has more than 4 GiB, another signature precedes it.
_END, _END_SIZE = "<4s8xI4xH", 22
_LARGE, _LARGE_SIZE = b"PK\x06\x07", 20


@contextmanager
def open_archive(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Opens an archive with a list of members of up to 1 MiB.

    Raises:
      InputError: the file is missing, or not a regular one.
      ERRORS: it is not such an archive.
    """
    regular_size(Path(path))
    with open(path, "rb") as file:
        _check_end(file)
        with zipfile.ZipFile(file) as archive:
            yield archive


def members(
    archive: zipfile.ZipFile, most_bytes: Mapping[str, int], *, compressed: bool
) -> dict[str, zipfile.ZipInfo]:
    """Looks up members by name.

    Args:
      archive: the archive that `open_archive` opened.
      most_bytes: the largest size of each member after decompression, by name.
      compressed: whether members may be compressed, by deflate.

    Returns:
      The members that exist, by name; others are ignored.

    Raises:
      ERRORS: a name occurs twice, or a member is larger, encrypted, or compressed in
        another way.
    """
    allowed = [zipfile.ZIP_STORED] + [zipfile.ZIP_DEFLATED] * compressed
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename
        if name not in most_bytes:
            continue
        if name in found:
            raise ValueError(f"it holds {name} twice")
        if member.file_size > most_bytes[name]:
            raise ValueError(
                f"{name} has {member.file_size:,} bytes, expected no more than "
                f"{most_bytes[name]:,}"
            )
        if member.flag_bits & _ENCRYPTED:
            raise ValueError(f"{name} is encrypted")
        if member.compress_type not in allowed:
            raise ValueError(f"{name} is compressed by method {member.compress_type}")
        found[name] = member
    return found


def read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Reads as many bytes as a member declares; raises one of `ERRORS` if it cannot."""
    with archive.open(member) as file:
        # Without a size, zipfile would decompress up to 2 GiB before it truncates.
        content = file.read(member.file_size)
    if len(content) < member.file_size:
        raise EOFError(f"{member.filename} is cut off")
    return content


def _check_end(file: BinaryIO) -> None:
    """Raises `ValueError` if `zipfile` would create too many objects for the list."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_SIZE - _LARGE_SIZE))
    end = file.read()
    if len(end) < _END_SIZE:
        raise ValueError("it is not an archive")
    signature, listed, comment = struct.unpack(_END, end[-_END_SIZE:])
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("it is not an archive, or its end is missing")
    if listed > _MOST_LISTED or end.startswith(_LARGE):
        raise ValueError("its list of members is too long")
