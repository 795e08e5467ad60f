"""Reading every image of a tree once, before it becomes part of a data set."""

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2

from mbn_jax.data.pipeline import decode
from mbn_jax.data.progress import progress
from mbn_jax.data.tree import Finding, Tree
from mbn_jax.errors import InputError

_NUM_THREADS = 2
_CHUNK = 32  # images that a thread takes at once
_JPEG, _END_OF_JPEG = b"\xff\xd8", b"\xff\xd9"
_KIND = "unreadable images"


class _Image(NamedTuple):
    name: str
    problem: str  # empty if there is none
    remedy: str
    checksum: int
    num_bytes: int


def check_images(tree: Tree, title: str) -> Tree:
    """Decodes every image of a tree, as training will.

    Args:
        tree: what the walk has found.
        title: of the data set, for the progress bar.

    Returns:
        The tree with a problem for every image of its splits that is not whole, a
        warning for every other one, and the checksums and the size of the images of
        its splits that are whole.
    """
    left_out = frozenset(tree.left_out)
    names = [*tree.names, *tree.left_out]
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    problems, warnings = list(tree.problems), list(tree.warnings)
    checksums, num_bytes = {}, 0
    with (
        _quiet_opencv(),
        progress("Checking", "Checked", title, len(names)) as advance,
        ThreadPoolExecutor(_NUM_THREADS) as pool,
    ):
        for images in pool.map(lambda chunk: _read(tree.root, chunk), chunks):
            for image in images:
                told = f"The image {tree.root / image.name} {image.problem}"
                if image.problem and image.name in left_out:
                    # It may be in no split only because a list is missing.
                    told += (
                        "; it is in no split and is left out anyway, but"
                        f" {image.remedy} if a list that names it is missing."
                    )
                    warnings.append(Finding(_KIND, told))
                elif image.problem:
                    problems.append(Finding(_KIND, f"{told}; {image.remedy}."))
                elif image.name not in left_out:
                    checksums[image.name] = image.checksum
                    num_bytes += image.num_bytes
                advance()
    return dataclasses.replace(
        tree,
        problems=tuple(problems),
        warnings=tuple(warnings),
        checksums=checksums,
        num_bytes=num_bytes,
    )


def check_unchanged(tree: Tree, name: str) -> Path:
    """Returns the path of an image, which is still the one that was checked.

    Args:
        tree: as `check_images` returns it.
        name: of the image.

    Raises:
        InputError: the file is gone, or is another.
    """
    path = tree.root / name
    try:
        same = zlib.crc32(path.read_bytes()) == tree.checksums[name]
    except OSError as error:
        raise InputError(
            f"The image {path} was checked, but now cannot be read"
            f" ({error.strerror or error}); leave the folder alone and start again."
        ) from error
    if not same:
        raise InputError(
            f"The image {path} has changed since it was checked; leave the folder alone"
            " and start again."
        )
    return path


def _read(root: Path, names: Sequence[str]) -> list[_Image]:
    return [_read_one(root / name, name) for name in names]


def _read_one(path: Path, name: str) -> _Image:
    try:
        encoded = path.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        return _Image(name, problem, "make it a file that you may read", 0, 0)
    if not encoded:
        problem = "is empty"
    elif encoded.startswith(_JPEG) and _END_OF_JPEG not in encoded:
        # Some releases of OpenCV fill the rest with grey and do not say so.
        problem = f"ends too early, after {len(encoded):,} bytes"
    else:
        problem = ""
        try:
            decode(encoded, (16, 16), str(path))
        except (InputError, cv2.error):
            problem = f"({len(encoded):,} bytes) cannot be decoded"
    remedy = "copy it from the archive again"
    return _Image(name, problem, remedy, zlib.crc32(encoded), len(encoded))


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV from logging, without the file's name, what is reported with it."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
