"""Reading a published data set from its folder: a walk, lists of identities, indices.

Nothing here stops at what is wrong: it is noted, so that one walk tells everything.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mbn_jax.data.findings import MISSING, Findings
from mbn_jax.data.manifest import Row
from mbn_jax.errors import InputError

_COPY = "copy it from the archive of the data set."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the files of a data set lie.

    Attributes:
        folders: those at the top, by which a copy is recognized.
        images: pattern of the paths of images, with a group named identity and others;
            every part between slashes matches one name.
        needed: further folders ("vis/cam1/") and files that have to be there.
        others: pattern of the paths of what else may be there.
    """

    folders: tuple[str, ...]
    images: str
    needed: tuple[str, ...] = ()
    others: str = ""


class Folder(NamedTuple):
    """A folder of images of one identity.

    Attributes:
        path: relative to the root.
        labels: what the path says, by the groups of `Layout.images`.
        files: the sorted names of the images.
    """

    path: str
    labels: Mapping[str, str]
    files: Sequence[str]

    def rows(self, camera: int | str, modality: str) -> list[Row]:
        """Returns a row without a split for every image."""
        identity = str(int(self.labels["identity"]))
        return [
            Row(f"{self.path}/{file}", identity, str(camera), modality, "")
            for file in self.files
        ]


def walk(root: Path, layout: Layout, findings: Findings) -> list[Folder]:
    """Walks a data set without reading an image.

    Args:
        root: the folder that was given.
        layout: of the data set.
        findings: receives a problem for everything that is missing, and a warning for
            everything that does not belong there.

    Returns:
        The folders of images, sorted by path, empty ones, too.

    Raises:
        InputError: the folder is not one of this data set; names one nearby that is.
    """
    _check_level(root, layout.folders)
    needed = (*(f"{name}/" for name in layout.folders), *layout.needed)
    missing: list[str] = []
    for name in needed:
        is_folder = name.endswith("/")
        there = (root / name).is_dir() if is_folder else (root / name).is_file()
        if not there and not name.startswith(tuple(missing)):
            missing += [name] if is_folder else []
            findings.problem(
                MISSING,
                f"The {'folder' if is_folder else 'file'} {root / name} is missing;"
                f" {_COPY}",
            )
    parts = layout.images.split("/")
    known = {name.rstrip("/") for name in needed}
    found = []

    def visit(path: str, labels: Mapping[str, str], rest: Sequence[str]) -> None:
        files = []
        for entry in _entries(root / path, findings):
            below = f"{path}/{entry.name}" if path else entry.name
            match = re.fullmatch(rest[0], entry.name) if rest else None
            is_dir = entry.is_dir()
            if match and is_dir and len(rest) > 1:
                visit(below, {**labels, **match.groupdict()}, rest[1:])
            # A link that points nowhere is taken, so that it is reported as unreadable;
            # some systems put a file with a dot beside every file.
            elif match and not is_dir and len(rest) == 1 and _is_plain(entry.name):
                files.append(entry.name)
            elif below in known or re.fullmatch(layout.others, below):
                if is_dir:
                    visit(below, {}, ())
            else:
                findings.warning(
                    "unexpected files and folders",
                    f"The {'folder' if is_dir else 'file'} {entry.path!r} is not part"
                    " of the data set and is left out.",
                )
        if len(rest) == 1:
            found.append(Folder(path, labels, files))

    visit("", {}, parts)
    return found


def read_identities(path: Path, findings: Findings) -> list[int]:
    """Returns the ascending identities in a list such as "6,10,17"."""
    identities: set[int] = set()
    wrong = []
    for word in re.split(r"[,\s]+", _text(path, findings).strip()):
        if re.fullmatch(r"[0-9]+", word):
            if int(word) in identities:
                wrong.append(f"lists identity {int(word)} twice")
            identities.add(int(word))
        elif word:
            wrong.append(f"holds {word[:40]!r} where an identity's number is expected")
    if path.is_file() and not identities:
        wrong.append("lists no identity")
    for what in wrong:
        findings.problem("malformed lists", f"{path} {what}; {_COPY}")
    return sorted(identities)


class Line(NamedTuple):
    """A line "path label" of an index file.

    Attributes:
        place: the file and the line, to name it in a sentence.
        row: the image of this path.
        label: the number after it.
    """

    place: str
    row: Row
    label: int


def read_index(
    path: Path,
    pattern: str,
    rows: Mapping[str, Row],
    absent: dict[str, list[str]],
    findings: Findings,
) -> dict[str, Line]:
    """Reads an index file, whose lines are "path label".

    Args:
        path: of the index file.
        pattern: of the paths in it.
        rows: of the images that are there, by path.
        absent: receives the place of each line whose image is not there, by path.
        findings: receives a problem for every other line that cannot be right.

    Returns:
        The lines whose images are there, by path, each once.
    """
    lines: dict[str, Line] = {}
    text = _text(path, findings)
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 2 or not (
            re.fullmatch(pattern, words[0]) and re.fullmatch("[0-9]+", words[1])
        ):
            findings.problem(
                "malformed lines",
                f"{place}: {line.strip()[:120]!r} is not a path of this part of the"
                f" data set and a label; {_COPY}",
            )
            continue
        name, label = words
        if name not in rows:
            absent.setdefault(name, []).append(place)
        elif name in lines:
            findings.problem(
                "images listed twice",
                f"{place} lists {name}, which {lines[name].place} lists, too; {_COPY}",
            )
        else:
            lines[name] = Line(place, rows[name], int(label))
    if path.is_file() and not text.strip():
        findings.problem("malformed lines", f"{path} is empty; {_COPY}")
    return lines


def check_absent(
    root: Path, absent: Mapping[str, Sequence[str]], findings: Findings
) -> None:
    """Notes every image that is listed and not there, once however often it is listed.

    Args:
        root: of the data set.
        absent: the places that list it, by the path of the image.
        findings: receives the problems.
    """
    for name, places in absent.items():
        more = f" and {len(places) - 1} other lines" if len(places) > 1 else ""
        findings.problem(
            "lines that point nowhere",
            f"{places[0]}{more}: there is no {root / name}; {_COPY}",
        )


def check_pairing(lines: Iterable[Line], findings: Findings) -> None:
    """Notes labels that stand for two identities, and identities with two labels.

    Args:
        lines: all that share one numbering.
        findings: receives a problem for the first line of every contradiction.
    """
    first_of_label: dict[int, Line] = {}
    first_of_identity: dict[str, Line] = {}
    told = set()
    for line in lines:
        identity = line.row.identity
        for first in (
            first_of_label.setdefault(line.label, line),
            first_of_identity.setdefault(identity, line),
        ):
            pair = (line.label, identity, first.label, first.row.identity)
            if pair[:2] == pair[2:] or pair in told:
                continue
            told.add(pair)
            findings.problem(
                "labels that contradict folders",
                f"{line.place} gives identity {identity} the label {line.label}, but"
                f" {first.place} gives identity {first.row.identity} the label"
                f" {first.label}; copy the files from the archive of the data set.",
            )


def check_disjoint(
    identities: Mapping[str, Collection[int]], findings: Findings
) -> None:
    """Notes every identity that two lists share.

    Args:
        identities: those of each list, by its name in a sentence.
        findings: receives a problem for every shared identity.
    """
    names = list(identities)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            for identity in sorted({*identities[first]} & {*identities[second]}):
                findings.problem(
                    "identities in two lists",
                    f"Identity {identity} is in {first} and in {second}, but who is"
                    " trained on must not be tested; copy the lists from the archive"
                    " of the data set.",
                )


def check_present(
    what: str, identities: Iterable[int], rows: Iterable[Row], findings: Findings
) -> None:
    """Notes listed identities without images, and those with one modality only.

    Args:
        what: the list, in a sentence.
        identities: that it lists.
        rows: of the images that are there.
        findings: receives problems and warnings.
    """
    there = {(int(row.identity), row.modality) for row in rows}
    for identity in identities:
        lacking = [m for m in ("visible", "infrared") if (identity, m) not in there]
        if len(lacking) == 2:
            findings.problem(
                "identities without images",
                f"Identity {identity} is listed for {what}, but has no image; copy its"
                " folders from the archive of the data set.",
            )
        elif lacking:
            findings.warning(
                "identities of one modality",
                f"Identity {identity} of {what} has no {lacking[0]} image; training and"
                " search across modalities pass over it.",
            )


def _check_level(root: Path, folders: Sequence[str]) -> None:
    """Refuses a root that is not a folder of this data set, or only near one."""
    names = ", ".join(folders)
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder; give the one that holds {names} with"
            " --manual_dir."
        )

    def num_there(place: Path) -> int:
        return sum((place / name).is_dir() for name in folders)

    if 2 * num_there(root) > len(folders):
        return
    nearby: list[Path] = []
    with contextlib.suppress(OSError):
        nearby += [path for path in sorted(root.iterdir()) if path.is_dir()]
        nearby += [deep for path in nearby for deep in path.iterdir() if deep.is_dir()]
    nearby += root.absolute().parents[:2]
    best = max(nearby, key=num_there)
    if 2 * num_there(best) > len(folders):
        raise InputError(
            f"{root} is not the folder that holds {names}, but {best} looks right; give"
            " that with --manual_dir."
        )
    if num_there(root) == 0:
        raise InputError(
            f"{root} holds none of {names}; give the folder that does with --manual_dir"
            " (docs/datasets.md shows the layout)."
        )


def _entries(folder: Path, findings: Findings) -> list[os.DirEntry[str]]:
    """What a folder holds, by name."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        findings.problem(
            "folders that cannot be read",
            f"The folder {folder} cannot be read ({error.strerror or error}); change"
            " its permissions.",
        )
        return []


def _is_plain(name: str) -> bool:
    return name.isprintable() and not name.startswith(".")


def _text(path: Path, findings: Findings) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        return ""  # noted by `walk`
    except OSError as error:
        if path.exists() and not path.is_dir():
            findings.problem(
                "files that cannot be read",
                f"The file {path} cannot be read ({error.strerror or error}); change"
                " its permissions.",
            )
        return ""
