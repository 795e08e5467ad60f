"""What is wrong with a checkpoint: checksums of its arrays, errors of reading it."""

import errno
import logging
import os
import re
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np

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


def checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of every array of a tree, by its path.

    It is over the type, the shape and the values of the whole array, on however many
    devices it is, and finds every error of up to 32 bits in a row.

    Args:
      tree: of arrays, each of which this process can read as a whole: all its pieces,
        or a copy.

    Returns:
      Numbers by names like `params/classifier/kernel`; a field of a dataclass has the
      name of the same key of a dictionary.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _checksum(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _checksum(leaf: Any) -> int:
    # Asked for by name: the training loop forbids all other transfers.
    array = np.ascontiguousarray(jax.device_get(leaf))
    header = f"{array.dtype} {np.shape(leaf)}".encode()
    return zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(header))


def check_arrays(tree: Any, kept: Mapping[str, int]) -> None:
    """Compares the arrays of a tree with checksums from when they were saved.

    Args:
      tree: arrays as `checksums` takes them, all that were saved or a part of them.
      kept: what `checksums` returned then.

    Raises:
      ValueError: names the arrays that differ, or have no checksum.
    """
    found = checksums(tree)
    different = [name for name in found if kept.get(name) != found[name]]
    if different:
        shown = ", ".join(different[:3]) + (", …" if len(different) > 3 else "")
        raise ValueError(
            f"{len(different)} of {len(found)} arrays differ from what was saved, by "
            f"their checksums: {shown}"
        )
