"""Files that are there whole or not at all."""

import json
import os
import stat
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mbn_jax.errors import InputError

_MOST_BYTES = 256 * 2**20
_MOST_LEVELS = 64
_KINDS = {list: "a list", str: "text", type(None): "null", bool: "true or false"}


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a whole file or none: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        # mkstemp makes files that only their owner may read.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def check_writable(folder: str | Path) -> None:
    """Raises `InputError` where a folder cannot be made or written to.

    For before any work that would be in vain.
    """
    if not os.fspath(folder):  # Path would take it for the current directory
        raise InputError(
            "The name of the folder to write to is empty; name a folder, or . for the "
            "current directory."
        )
    folder = Path(folder).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        kind = "may not be written to" if existing.is_dir() else "is no folder"
        raise InputError(
            f"{folder} cannot be written to, because {existing} {kind}; name another "
            "folder."
        )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes an object as indented JSON, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, see `parse_json`.

    Raises:
      InputError: it cannot be read, or `parse_json` refuses it; names the file.
    """
    return parse_json(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of up to 256 MiB.

    Anything else is not opened: a pipe would wait for a writer, a device never ends.

    Raises:
      InputError: it is missing, not a regular file, too large, or cannot be read.
    """
    try:
        status = path.stat()
        is_regular = stat.S_ISREG(status.st_mode)
        is_small = status.st_size <= _MOST_BYTES
        content = path.read_bytes() if is_regular and is_small else b""
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        raise InputError(
            f"{path} cannot be read ({getattr(error, 'strerror', error)}); give a file "
            "that can be read."
        ) from error
    if not is_regular:
        raise InputError(f"{path} is not a regular file; give one.")
    if not is_small:
        raise InputError(
            f"{path} has {status.st_size} bytes, expected no more than {_MOST_BYTES}; "
            "restore it from a copy."
        )
    return content


def parse_json(text: str | bytes, name: str | Path) -> dict[str, Any]:
    """The object in JSON text; what is inside the object is for the caller to check.

    Args:
      text: UTF-8, where it is bytes.
      name: what the text is, for the error.

    Raises:
      InputError: it is not JSON, holds something else than an object, is nested more
        than 64 levels deep, or has an integer that 64 bits do not hold.
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
            "writes it; restore it from a copy, or repeat the command that wrote it."
        ) from error
    return content


def _children(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _parse_integer(digits: str) -> int:
    # Beyond this a number that stands for a float cannot always become one.
    if len(digits) > 20 or abs(number := int(digits)) >= 2**63:
        raise ValueError(f"the number {digits[:20]}… is too large")
    return number
