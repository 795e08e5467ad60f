"""Files that are there whole or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbn_jax.errors import InputError


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
    """The object in a JSON file.

    Raises:
      InputError: if it cannot be read; names the file.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); it is written by a training "
            "run, so give the work directory of one that has ended."
        ) from error
