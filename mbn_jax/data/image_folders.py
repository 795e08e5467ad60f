"""Lists the images below a folder: every one that should be there is, or is named."""

import os
from pathlib import Path

from mbn_jax.data.images import SUFFIXES
from mbn_jax.errors import InputError
from mbn_jax.files import check_named


def images_below(folder: str | Path, deepest: int | None = None) -> list[Path]:
    """Lists the image files in a folder and in those below it.

    Links to files and to folders are followed; a link to a folder that it is in adds
    nothing. Hidden files and folders, whose names start with a dot, are left out: some
    systems put such a file beside every image.

    Args:
        folder: searched for files that end in one of `SUFFIXES`, in small or capital
            letters.
        deepest: how many folders below the first one are entered; None for all.

    Returns:
        Paths that start with the folder, in no particular order; none if there are
        none.

    Raises:
        InputError: it is not a folder, a folder cannot be read, a link leads nowhere,
            an image is not a regular file, or a name is not UTF-8.
    """
    check_named(folder)
    if not os.path.isdir(folder):
        raise InputError(
            f"{folder} is not a folder: give the folder that holds the images."
        )
    found: list[Path] = []
    waiting: list[tuple[Path, tuple[os.stat_result, ...]]] = [(Path(folder), ())]
    while waiting:
        place, above = waiting.pop()
        try:
            status = place.stat()
            if any(os.path.samestat(status, other) for other in above):
                continue
            with os.scandir(place) as entries:
                shown = [e for e in entries if not e.name.startswith(".")]
            folders = [entry.path for entry in shown if entry.is_dir()]
        except OSError as error:
            raise InputError(
                f"The folder {place} cannot be read ({error.strerror or error}): make"
                " it one that you may read, or move it away."
            ) from error
        found += [Path(e.path) for e in shown if not e.is_dir() and _is_image(e)]
        if deepest is None or len(above) < deepest:
            waiting += [(Path(path), (*above, status)) for path in folders]
    return found


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Returns whether a file is an image, by its name.

    Raises:
        InputError: it should be one and cannot be read, or its name cannot be written.
    """
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise InputError(
            f"The link {entry.path} leads nowhere ({os.readlink(entry.path)}): restore"
            " what it stands for, or remove it."
        )
    if os.path.splitext(entry.name)[1].casefold() not in SUFFIXES:
        return False
    if not entry.is_file():  # to read a pipe would wait forever
        raise InputError(
            f"{entry.path} is not a regular file, though it is named like an image:"
            " move it away."
        )
    try:
        entry.path.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The name of {entry.path!r} is not UTF-8, in which names are written:"
            " rename it."
        ) from error
    return True
