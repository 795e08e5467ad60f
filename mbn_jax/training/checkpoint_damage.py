"""What is wrong with a checkpoint: checksums of its arrays, errors of reading it."""

import errno
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
# Orbax looks for what it has written by a pattern that includes the whole path.
_NOT_WRITTEN = (*_NEVER, "*", "?", "[")
_CODE = re.compile(r"os_error_code='(\d+)'")


def check_path(workdir: str | Path, *, to_write: bool) -> None:
    """Refuses a work directory whose path Orbax or TensorStore would misread.

    Raises:
        InputError: names what must not be in the path.
    """
    path = Path(workdir).absolute()
    for text in _NOT_WRITTEN if to_write else _NEVER:
        if text in f"{path}/":
            raise InputError(
                f"Checkpoints cannot be {'written to' if to_write else 'read from'} "
                f"{path}, because its path holds {text!r}; rename that folder, or "
                "choose a --workdir elsewhere."
            )


def is_of_content(error: BaseException) -> bool:
    """Whether an error while reading comes from what was read.

    The others may pass, or need rights or memory; then what was read may be whole.
    """
    out_of_memory = any(isinstance(e, MemoryError) for e in _with_causes(error))
    return not _system_errors(error) and not out_of_memory


def reason(error: BaseException) -> str:
    """A library's error in the shortest form that still says what is wrong."""
    if of_system := _system_errors(error):
        return os.strerror(of_system[0])
    # The rest of the text is advice, and whoever asks for a reason gives their own.
    text = " ".join(str(error).split()).partition("; ")[0][:200]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _system_errors(error: BaseException) -> list[int]:
    """The numbers of the system's errors that say nothing of the content."""
    numbers = []
    for one in _with_causes(error):
        number = one.errno if isinstance(one, OSError) else None
        if not isinstance(one, OSError) and (found := _CODE.search(str(one))):
            number = int(found[1])  # TensorStore puts it into the text
        if number and number not in _OF_CONTENT:
            numbers.append(number)
    return numbers


def _with_causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or one in found:
            continue
        found.append(one)
        left += [one.__cause__, one.__context__]
        left += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
    return found


def checksums(tree: Any) -> dict[str, int]:
    """Computes the CRC-32 of every array of a tree.

    It is over the type, the shape and the values of the whole array, on however many
    devices it is, and detects every error of up to 32 bits in a row.

    Args:
        tree: arrays, each of which this process can read as a whole: all its pieces, or
            a copy.

    Returns:
        Numbers by names like `params/classifier/kernel`; a field of a dataclass has the
        name of the same key of a dictionary.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _checksum(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _checksum(leaf: Any) -> int:
    # An explicit transfer: the training loop forbids all others.
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
