"""Walking the folders of a data set, and noting everything that is not right."""

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mbn_jax.data.tree import Findings
from mbn_jax.errors import InputError

# Of these every one is shown, however many there are.
MISSING = "missing folders and files"


def check_level(root: Path, folders: Collection[str]) -> None:
    """Refuses a root that is no folder of this data set, or only near one.

    Args:
        root: the folder given.
        folders: those that the layout has at the top.

    Raises:
        InputError: it is no folder, has none of them, or has few of them while a
            folder just above or below, which is named, has most.
    """
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder; give the one that holds {', '.join(folders)} with"
            " --manual_dir."
        )
    there = _num_there(root, folders)
    if 2 * there > len(folders):
        return
    nearby: list[Path] = []
    with contextlib.suppress(OSError):
        nearby += [path for path in sorted(root.iterdir()) if path.is_dir()]
        nearby += [deep for path in nearby for deep in path.iterdir() if deep.is_dir()]
    nearby += root.absolute().parents[:2]
    best = max(nearby, key=lambda path: _num_there(path, folders))
    names = ", ".join(folders)
    if 2 * _num_there(best, folders) > len(folders):
        raise InputError(
            f"{root} is not the folder that holds {names}, but {best} looks right; give"
            " that with --manual_dir."
        )
    if there == 0:
        raise InputError(
            f"{root} holds none of {names}; give the folder that does with --manual_dir"
            " (docs/datasets.md shows the layout)."
        )


def check_there(root: Path, names: Iterable[str], findings: Findings) -> None:
    """Notes every folder ("name/") and file ("name") of the layout that is missing."""
    for name in names:
        path = root / name
        what = "folder" if name.endswith("/") else "file"
        if not (path.is_dir() if what == "folder" else path.is_file()):
            findings.problem(
                MISSING,
                f"The {what} {path} is missing; copy it from the archive of the data"
                " set.",
            )


def entries(folder: Path, findings: Findings) -> list[os.DirEntry[str]]:
    """What a folder holds, by name; nothing if it is not there."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []  # noted by `check_there`
    except OSError as error:
        findings.problem(
            "folders that cannot be read",
            f"The folder {folder} cannot be read ({error.strerror or error}); make it"
            " a folder that you may read.",
        )
        return []


def identity_folders(
    folder: Path, pattern: str, findings: Findings
) -> list[tuple[int, Path]]:
    """The folders of identities below one, and their numbers."""
    found = []
    for entry in entries(folder, findings):
        if re.fullmatch(pattern, entry.name) and entry.is_dir():
            found.append((int(entry.name), Path(entry.path)))
        else:
            unexpected(entry, findings)
    return found


def image_names(folder: Path, pattern: str, findings: Findings) -> list[str]:
    """The file names of the images in a folder, sorted."""
    found = []
    for entry in entries(folder, findings):
        # A link that points nowhere is taken, so that it is reported as unreadable.
        if (
            re.fullmatch(pattern, entry.name)
            and entry.name.isprintable()
            and not entry.name.startswith(".")  # what some systems put beside a file
            and not entry.is_dir()
        ):
            found.append(entry.name)
        else:
            unexpected(entry, findings)
    return found


def unexpected(entry: os.DirEntry[str], findings: Findings) -> None:
    """Notes what is no part of the layout."""
    what = "folder" if entry.is_dir() else "file"
    findings.warning(
        "unexpected files and folders",
        f"The {what} {entry.path!r} is no part of the data set and is left out.",
    )


def check_top(
    folder: Path,
    known: Collection[str],
    findings: Findings,
    *,
    ignored: str = r"",
) -> None:
    """Notes what lies in a folder beside what the layout has there.

    Args:
        folder: one whose content is listed in the layout.
        known: names that belong there.
        findings: receives a warning for every other name.
        ignored: pattern of names that may be there.
    """
    for entry in entries(folder, findings):
        if entry.name not in known and not re.fullmatch(ignored, entry.name):
            unexpected(entry, findings)


def check_listed(
    root: Path, absent: Mapping[str, Sequence[str]], findings: Findings
) -> None:
    """Notes every image that index files list and that is not there.

    Args:
        root: of the data set.
        absent: the places that list it, by the name of the image.
        findings: receives one problem for each image, however often it is listed.
    """
    for name, places in absent.items():
        more = f" and {len(places) - 1} other lines" if len(places) > 1 else ""
        findings.problem(
            "lines that point nowhere",
            f"{places[0]}{more}: there is no {root / name}; copy it from the archive of"
            " the data set.",
        )


def some(numbers: Sequence[int], limit: int = 10) -> str:
    """The first few of some numbers, to show in a sentence."""
    shown = ", ".join(map(str, numbers[:limit]))
    return shown + (", …" if len(numbers) > limit else "")


def _num_there(root: Path, folders: Iterable[str]) -> int:
    return sum((root / name).is_dir() for name in folders)
