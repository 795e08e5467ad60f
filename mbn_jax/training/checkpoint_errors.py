"""Errors of checkpoints: what they say in few words, and whose fault they are."""

import errno
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import absl.logging

from mbn_jax.errors import InputError

# What the system answers where a file is missing or its name is damaged. All else, an
# error of the disk, too many open files, missing rights, says nothing of the content.
_OF_CONTENT = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EINVAL,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
# Orbax takes the first of these for cloud storage, and TensorStore, the second for /.
_NEVER = ("gs:/", "\\", "**")
# Orbax looks for what it has written by a pattern that the whole path is a part of.
_NOT_WRITTEN = (*_NEVER, "*", "?", "[")
_CODE = re.compile(r"os_error_code='(\d+)'")


def check_path(workdir: str | Path, *, to_write: bool) -> None:
    """Refuses a work directory whose path Orbax or TensorStore would misread.

    Raises:
      InputError: names what must not be in the path.
    """
    path = Path(workdir).absolute()
    found = [
        text for text in (_NOT_WRITTEN if to_write else _NEVER) if text in f"{path}/"
    ]
    if found:
        use = "written to" if to_write else "read from"
        raise InputError(
            f"Checkpoints cannot be {use} {path}, because its path holds {found[0]!r}; "
            "rename that folder, or choose a --workdir elsewhere."
        )


def raise_and_do_not_log() -> None:
    """Silences what Orbax and what it uses print about errors that they also raise.

    Of a disk that is full they print a thousand lines around the one that helps. It is
    for programs whose only work is a run: it holds for the whole process.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # TensorStore answers to whom Orbax, after the first error, no longer awaits.
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = hook


def is_of_content(error: BaseException) -> bool:
    """Whether an error while reading comes from what was read.

    The others may pass, or need rights or memory; then what was read may be whole.
    """
    causes = _with_causes(error)
    numbers = {number for one in causes if (number := _number(one))}
    return numbers <= _OF_CONTENT and not any(
        isinstance(one, MemoryError) for one in causes
    )


def reason(error: BaseException) -> str:
    """A library's error in the shortest form that still says what is wrong."""
    numbers = [number for one in _with_causes(error) if (number := _number(one))]
    of_system = [number for number in numbers if number not in _OF_CONTENT]
    if of_system:
        return os.strerror(of_system[0])
    # What comes after is advice, which whoever asks has of their own.
    text = " ".join(str(error).split()).partition("; ")[0][:200]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _number(error: BaseException) -> int | None:
    """The system's number of an error, which TensorStore puts into the text."""
    if isinstance(error, OSError):
        return error.errno
    found = _CODE.search(str(error))
    return int(found[1]) if found else None


def _with_causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if one in found:
            continue
        found.append(one)
        left += [e for e in (one.__cause__, one.__context__) if e is not None]
        left += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
    return found
