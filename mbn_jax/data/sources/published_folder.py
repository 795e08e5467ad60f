"""A published data set as a folder: its layout, its lists, and problems of a copy.

A folder that is not this data set raises an error. All other problems are collected, so
that one walk reports all of them.
"""

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mbn_jax.data.findings import MISSING, Findings
from mbn_jax.data.manifest import Manifest, Row
from mbn_jax.data.sources import Folders, Scan
from mbn_jax.errors import InputError

_FROM_ARCHIVE = "from the archive of the data set."
_COPY = f"copy it {_FROM_ARCHIVE}"


class Folder(NamedTuple):
    """A folder of images of one identity."""

    path: str  # relative to the root
    labels: Mapping[str, str]  # what the path says, by the groups of `Layout.images`
    files: Sequence[str]  # the sorted names of the images

    def rows(self, camera: int | str, modality: str, split: str = "") -> list[Row]:
        """Returns a row for every image."""
        identity = str(int(self.labels["identity"]))
        return [
            Row(f"{self.path}/{file}", identity, str(camera), modality, split)
            for file in self.files
        ]


class Line(NamedTuple):
    """A line "path label" of an index file."""

    place: str  # where it is
    row: Row
    label: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the files of a data set are.

    Attributes:
        folders: those at the top, by which a copy is recognized.
        images: patterns of the names in the path of an image, from the top to the file;
            there is a group named identity.
        needed: further folders ("vis/cam1/") and files that have to be there.
        others: pattern of the paths of what else may be there.
    """

    folders: tuple[str, ...]
    images: tuple[str, ...]
    needed: tuple[str, ...] = ()
    others: str = ""


class Copy:
    """A copy of a data set, and what is wrong with it.

    Attributes:
        root: its folder.
        findings: what has been found so far.
    """

    def __init__(self, folders: Folders, layout: Layout) -> None:
        """Takes the folder ``manual_dir``, and notes what is missing in it.

        Raises:
            InputError: it is not a folder of this data set; names one nearby that is.
        """
        self.root, self.findings = folders["manual_dir"][0].expanduser(), Findings()
        self._layout = layout
        _check_level(self.root, layout.folders)
        self._needed = (*(f"{name}/" for name in layout.folders), *layout.needed)
        self._absent: dict[str, list[str]] = {}
        missing: tuple[str, ...] = ()
        for name in self._needed:
            path, is_folder = self.root / name, name.endswith("/")
            if path.is_dir() if is_folder else path.is_file():
                continue
            if not is_folder or not name.startswith(missing):
                missing += (name,)
                what = "folder" if is_folder else "file"
                self.findings.problem(MISSING, f"The {what} {path} is missing; {_COPY}")

    def walk(self) -> list[Folder]:
        """Returns the folders of images by path, empty ones, too; reads no image.

        Whatever is not part of the layout is reported and left out.
        """
        known = {name.rstrip("/") for name in self._needed}
        found = []

        def visit(path: str, labels: Mapping[str, str], rest: Sequence[str]) -> None:
            files = []
            for entry in self._entries(self.root / path):
                below, is_dir = f"{path}/{entry.name}".lstrip("/"), entry.is_dir()
                match = re.fullmatch(rest[0], entry.name) if rest else None
                # Some systems put a file with a dot beside every file.
                is_shown = entry.name.isprintable() and not entry.name.startswith(".")
                if match and is_dir and len(rest) > 1:
                    visit(below, {**labels, **match.groupdict()}, rest[1:])
                # A link that points nowhere is taken, and reported as unreadable.
                elif match and not is_dir and len(rest) == 1 and is_shown:
                    files.append(entry.name)
                elif below in known or re.fullmatch(self._layout.others, below):
                    if is_dir:
                        visit(below, {}, ())
                else:
                    self.findings.warning(
                        "unexpected files and folders",
                        f"The {'folder' if is_dir else 'file'} {entry.path!r} is not"
                        " part of the data set and is left out.",
                    )
            if len(rest) == 1:
                found.append(Folder(path, labels, files))

        visit("", {}, self._layout.images)
        return found

    def identities(self, name: str) -> list[int]:
        """Returns the ascending identities of a list such as "6,10,17"."""
        identities: set[int] = set()
        wrong = []
        for word in re.split(r"[,\s]+", self._text(name).strip()):
            if re.fullmatch(r"[0-9]+", word):
                if int(word) in identities:
                    wrong.append(f"lists identity {int(word)} twice")
                identities.add(int(word))
            elif word:
                wrong.append(f"holds {word[:40]!r}, not the number of an identity")
        if (self.root / name).is_file() and not identities:
            wrong.append("lists no identity")
        for what in wrong:
            self.findings.problem(
                "malformed lists", f"{self.root / name} {what}; {_COPY}"
            )
        return sorted(identities)

    def index(self, name: str, part: str, rows: Mapping[str, Row]) -> dict[str, Line]:
        """Reads an index file, whose lines are "path label".

        Args:
            name: of the file.
            part: the folder at the top that its paths are in.
            rows: of the images that are there, by path.

        Returns:
            The lines whose images are there, by path, each once. What is wrong with the
            others is reported; those without an image are collected for `check_absent`.
        """
        lines: dict[str, Line] = {}
        text = self._text(name)
        for number, line in enumerate(text.splitlines(), start=1):
            place, words = f"{self.root / name}, line {number}", line.split()
            if not words:
                continue
            if (
                len(words) != 2
                or not re.fullmatch("/".join(self._layout.images), words[0])
                or not words[0].startswith(f"{part}/")
                or not re.fullmatch("[0-9]+", words[1])
            ):
                self.findings.problem(
                    "malformed lines",
                    f"{place}: {line.strip()[:120]!r} is not a path of this part of the"
                    f" data set and a label; {_COPY}",
                )
            elif words[0] not in rows:
                self._absent.setdefault(words[0], []).append(place)
            elif words[0] in lines:
                self.findings.problem(
                    "images listed twice",
                    f"{place} lists {words[0]}, which {lines[words[0]].place} lists,"
                    f" too; {_COPY}",
                )
            else:
                lines[words[0]] = Line(place, rows[words[0]], int(words[1]))
        if (self.root / name).is_file() and not text.strip():
            self.findings.problem(
                "malformed lines", f"{self.root / name} is empty; {_COPY}"
            )
        return lines

    def check_absent(self) -> None:
        """Reports every image that is in an index and not there, each once."""
        for name, places in self._absent.items():
            more = f" and {len(places) - 1} other lines" if len(places) > 1 else ""
            self.findings.problem(
                "lines that point nowhere",
                f"{places[0]}{more}: there is no {self.root / name}; {_COPY}",
            )

    def check_pairing(self, lines: Iterable[Line]) -> None:
        """Reports labels of two identities, and identities with two labels.

        The first of every contradiction among lines of one numbering is reported.
        """
        of_label: dict[int, Line] = {}
        of_identity: dict[str, Line] = {}
        reported = set()
        for line in lines:
            identity, label = line.row.identity, line.label
            for first in (
                of_label.setdefault(label, line),
                of_identity.setdefault(identity, line),
            ):
                pair = (identity, label, first.row.identity, first.label)
                if pair[:2] != pair[2:] and pair not in reported:
                    reported.add(pair)
                    self.findings.problem(
                        "labels that contradict folders",
                        f"{line.place} gives identity {identity} the label {label}, but"
                        f" {first.place} gives identity {first.row.identity} the label"
                        f" {first.label}; copy the files {_FROM_ARCHIVE}",
                    )

    def check_disjoint(self, identities: Mapping[str, Collection[int]]) -> None:
        """Reports every identity that two lists share, with the names of the lists."""
        for first, second in itertools.combinations(identities, 2):
            for identity in sorted({*identities[first]} & {*identities[second]}):
                self.findings.problem(
                    "identities in two lists",
                    f"Identity {identity} is in {first} and in {second}, but training"
                    f" and test must not share identities; copy the lists"
                    f" {_FROM_ARCHIVE}",
                )

    def check_present(
        self, what: str, identities: Iterable[int], rows: Iterable[Row]
    ) -> None:
        """Reports listed identities without images, and those of one modality only."""
        there = {(int(row.identity), row.modality) for row in rows}
        for identity in identities:
            lacking = [m for m in ("visible", "infrared") if (identity, m) not in there]
            if len(lacking) == 2:
                self.findings.problem(
                    "identities without images",
                    f"Identity {identity} is listed for {what}, but has no image; copy"
                    f" its folders {_FROM_ARCHIVE}",
                )
            elif lacking:
                self.findings.warning(
                    "identities of one modality",
                    f"Identity {identity} of {what} has no {lacking[0]} image; training"
                    " and search across modalities skip it.",
                )

    def count(
        self, what: str, expected: int, rows: Iterable[Row], **labels: str
    ) -> None:
        """Compares a published number with that of the rows that have some labels."""
        found = sum(all(getattr(r, k) == v for k, v in labels.items()) for r in rows)
        self.findings.count(what, expected, found)

    def scan(self, manifests: Mapping[str, Manifest], left_out: Sequence[str]) -> Scan:
        """Returns what the walk has found, with all that is wrong."""
        return Scan(self.root, manifests, self.findings, left_out)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        with self._readable("folder", folder), os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
        return []

    def _text(self, name: str) -> str:
        path = self.root / name
        if path.is_file():  # otherwise it is reported as missing
            with self._readable("file", path):
                return path.read_text(encoding="utf-8-sig", errors="replace")
        return ""

    @contextlib.contextmanager
    def _readable(self, what: str, path: Path) -> Iterator[None]:
        """Reports an `OSError`, and goes on after the block."""
        try:
            yield
        except OSError as error:
            self.findings.problem(
                f"{what}s that cannot be read",
                f"The {what} {path} cannot be read ({error.strerror or error}); make it"
                f" a {what} that you may read.",
            )


def _check_level(root: Path, folders: Sequence[str]) -> None:
    """Refuses a root that is not a folder of this data set, or only near one."""
    names = ", ".join(folders)
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder; give the one that holds {names} with"
            " --manual_dir."
        )

    def share(place: Path) -> float:
        return sum((place / name).is_dir() for name in folders) / len(folders)

    if share(root) > 0.5:
        return
    nearby: list[Path] = []
    with contextlib.suppress(OSError):
        nearby += [path for path in sorted(root.iterdir()) if path.is_dir()]
        nearby += [deep for path in nearby for deep in path.iterdir() if deep.is_dir()]
    best = max([*nearby, *root.absolute().parents[:2]], key=share)
    if share(best) > 0.5:
        raise InputError(
            f"{root} is not the folder that holds {names}, but {best} looks right; give"
            " that with --manual_dir."
        )
    if share(root) == 0:
        raise InputError(
            f"{root} holds none of {names}; give the folder that does with --manual_dir"
            " (docs/datasets.md shows the layout)."
        )
