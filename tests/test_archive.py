"""Archives that declare, hide or pack what a reader would suffer from."""

import struct
import zipfile

import pytest

from mbn_jax import archive
from mbn_jax.errors import InputError

MOST = {"a": 100, "b": 100}


def write(path, names=("a", "b"), content=b"12345", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name in names:
            file.writestr(name, content)
    return path


def change(path, position, packed):
    """Changes the first entry of the list of members."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + position
    content[start : start + len(packed)] = packed
    path.write_bytes(content)
    return path


def found(path, compressed=True):
    with archive.open_archive(path) as file:
        of = archive.members(file, MOST, compressed=compressed)
        return {name: archive.read(file, member) for name, member in of.items()}


def refused(path, match, compressed=True):
    with pytest.raises(archive.ERRORS, match=match):
        found(path, compressed)


def test_members_are_read_and_others_ignored(tmp_path):
    path = write(tmp_path / "x.zip", ("a", "c"))
    assert found(path) == {"a": b"12345"}
    write(path, compression=zipfile.ZIP_DEFLATED)
    assert found(path) == {"a": b"12345", "b": b"12345"}


def test_what_is_declared_decides(tmp_path):
    path = tmp_path / "x.zip"
    refused(write(path, content=bytes(101)), "a has 101 bytes, expected no more")
    refused(
        change(write(path), 24, struct.pack("<I", 3 * 2**30)), "a has 3,221,225,472"
    )
    refused(change(write(path), 8, b"\x01"), "a is encrypted")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        refused(write(path, compression=method), f"by method {method}")
    refused(change(write(path), 10, b"\x63"), "by method 99")
    deflated = write(path, compression=zipfile.ZIP_DEFLATED)
    refused(deflated, "by method 8", compressed=False)


def test_a_member_has_the_bytes_that_it_declares(tmp_path):
    path = tmp_path / "x.zip"
    write(path, content=bytes(90), compression=zipfile.ZIP_DEFLATED)
    refused(change(path, 24, struct.pack("<I", 10)), "Bad CRC-32")
    refused(change(write(path), 24, struct.pack("<I", 90)), "a is cut off")
    content = write(path).read_bytes().replace(b"12345", b"12346", 1)
    path.write_bytes(content)
    refused(path, "Bad CRC-32")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_is_there_once(tmp_path):
    refused(write(tmp_path / "x.zip", ("a", "a")), "holds a twice")


def test_a_list_of_very_many_members_is_not_read(tmp_path):
    path = write(tmp_path / "x.zip")
    content = bytearray(path.read_bytes())
    content[-10:-6] = struct.pack("<I", 2**20 + 1)
    path.write_bytes(content)
    refused(path, "list of members is too long")
    content = path.read_bytes()
    path.write_bytes(content[:-22] + b"PK\x06\x07" + bytes(16) + content[-22:])
    refused(path, "list of members is too long")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(100)])
def test_something_else_is_refused(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", "not an archive")
    with pytest.raises(InputError, match="is not a regular file"):
        found(tmp_path)
