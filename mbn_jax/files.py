"""Files that are there whole or not at all, even after a loss of power, and JSON."""

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mbn_jax.errors import InputError

# The end of the name of a file that is being written, or whose writer was killed.
UNFINISHED = ".unfinished"
_MOST_BYTES = 256 * 2**20
_MOST_LEVELS = 64
_KINDS = {list: "a list", str: "text", type(None): "null", bool: "true or false"}


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a whole file or none: a reader never sees half of it.

    When it returns, the file is on the disk; until then the disk holds the earlier file
    of this name, if there was one.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes files that belong together, each like `write_atomically`.

    None gets its name before all are on the disk, so that a full disk leaves the
    earlier files as they were. A loss of power between the names can leave some of
    each, so the files must show by themselves that they do not fit each other.

    Raises:
      InputError: a path is that of a folder, a device or a pipe, or is too long.
    """
    for path in contents:
        _check_replaceable(path)
    written: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            make_folder(path.parent)
            # A name may have 255 bytes, and a character has up to four.
            descriptor, written[path] = tempfile.mkstemp(
                dir=path.parent, prefix=path.name[:50], suffix=UNFINISHED
            )
            _write_to_disk(descriptor, content)
        for path, temporary in written.items():
            os.replace(temporary, path)
            sync(path.parent)
    except BaseException:
        # The disk may be read-only by now; raise the error that says so.
        for temporary in written.values():
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise


def _write_to_disk(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        # mkstemp makes files that only their owner may read.
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask)
        file.flush()
        # Otherwise the new name may reach the disk before the content does.
        os.fsync(descriptor)


def make_folder(folder: Path) -> None:
    """Makes a folder and its missing parents, and syncs the folders that name them."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def move_durably(folder: Path, target: Path) -> None:
    """Renames a folder within a file system; both content and name are then on disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))
    folder.rename(target)
    sync(target.parent)
    if folder.parent != target.parent:
        sync(folder.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder, and keep its names anyway.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Removes unfinished files at any depth; no other process may be writing there."""
    for path in folder.rglob("*" + UNFINISHED):
        path.unlink()


def check_named(folder: str | os.PathLike[str]) -> None:
    """Raises `InputError` for "", which `Path` reads as the current directory."""
    if not os.fspath(folder):
        raise InputError(
            "The name of a folder is empty; name a folder, or . for the current "
            "directory."
        )


def check_writable(folder: str | Path) -> None:
    """Raises `InputError` if a folder cannot be made or written to.

    Call this before starting expensive work.
    """
    check_named(folder)
    folder = Path(folder).absolute()
    _check_length(folder)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        kind = "may not be written to" if existing.is_dir() else "is not a folder"
        raise InputError(
            f"{folder} cannot be written to, because {existing} {kind}; name another "
            "folder."
        )


def check_file(path: str | Path) -> None:
    """Raises `InputError` if a file cannot be made or replaced.

    A folder, a device or a pipe is never replaced. Call this before expensive work.
    """
    _check_replaceable(path)
    check_writable(Path(path).parent)


def _check_replaceable(path: str | Path) -> None:
    name, path = os.fspath(path), Path(path)
    _check_length(path)
    if path.name in ("", "..") or (path.exists() and not path.is_file()):
        raise InputError(
            f"{name!r} cannot be written as a file, because it does not name a file; "
            "name a new file, or one to replace."
        )


def _check_length(path: Path) -> None:
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(
                f"{path} cannot be written to ({error.strerror}); name another place."
            ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes an object as indented JSON, like `write_atomically`."""
    write_atomically(path, as_json_bytes(content))


def as_json_bytes(content: Mapping[str, Any]) -> bytes:
    """Returns an object as indented JSON."""
    return (json.dumps(content, indent=2) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file like `parse_json`; raises `InputError` if it cannot."""
    return parse_json(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Reads a regular file of up to 256 MiB; raises `InputError` if it cannot."""
    size = regular_size(path)
    if size > _MOST_BYTES:
        raise InputError(
            f"{path} has {size} bytes, expected no more than {_MOST_BYTES}; restore it "
            "from a copy."
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def regular_size(path: Path) -> int:
    """Returns the bytes of a file; raises `InputError` unless it is a regular one.

    Call this before opening a file that a user names: opening a pipe waits for a
    writer, and a device never ends.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: an impossible name
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file; give one.")
    return status.st_size


def _unreadable(path: Path, error: OSError | ValueError) -> InputError:
    return InputError(
        f"{path} cannot be read ({getattr(error, 'strerror', error)}); give a file "
        "that can be read."
    )


def parse_json(text: str | bytes, name: str | Path) -> dict[str, Any]:
    """Parses a JSON object, whose content the caller must check.

    Args:
      text: the JSON; bytes are UTF-8.
      name: what the text is, for the error.

    Raises:
      InputError: if it is not a JSON object, is nested more than 64 levels deep, or
        has an integer that does not fit 64 bits.
    """
    try:
        content = json.loads(text, parse_int=_parse_integer)
        if not isinstance(content, dict):
            raise ValueError(f"it holds {_KINDS.get(type(content), 'a number')}")
        level: list[Any] = [content]
        for _ in range(_MOST_LEVELS):
            level = [child for value in level for child in _children(value)]
        if level:
            raise ValueError(f"it is nested more than {_MOST_LEVELS} levels deep")
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name} cannot be read ({reason}), expected a JSON object as mbn_jax "
            "writes it; restore it from a copy, or remove it and repeat the command "
            "that wrote it."
        ) from error
    return content


def _children(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _parse_integer(digits: str) -> int:
    # A larger integer in place of a float could not always become one.
    if len(digits) > 20 or abs(number := int(digits)) >= 2**63:
        raise ValueError(f"the number {digits[:20]}… is too large")
    return number
