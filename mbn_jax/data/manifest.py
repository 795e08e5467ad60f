"""The manifest of a data set: a table with a row for each image.

A manifest is a CSV file (UTF-8, with a header) that a person writes or a command makes:

    path,identity,camera,modality,split
    visible/anna/0001.jpg,anna,door,visible,train

Paths are relative to the folder of images. Identities and cameras are any text, and a
modality is any name; there are two modalities or more. The split is train, val or test;
query and gallery can stand in place of test. The sources in `mbn_jax.data.sources` make
the same table from the folders of published data sets.
"""

import csv
import dataclasses
import functools
import io
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbn_jax import modalities as modality_names
from mbn_jax.data.findings import Findings
from mbn_jax.data.images import SUFFIXES, images_below
from mbn_jax.data.sixteen_bits import Scale
from mbn_jax.errors import InputError
from mbn_jax.files import check_named, read_bytes, write_atomically

SPLITS = ("train", "val", "test", "query", "gallery")
# macOS writes ü as two characters in names of files: labels have one form.
_composed = functools.partial(unicodedata.normalize, "NFC")


class Row(NamedTuple):
    """One image."""

    path: str  # relative to the folder of images, with forward slashes
    identity: str  # who or what is shown
    camera: str  # which camera took it
    modality: str  # for example "visible"
    split: str  # one of `SPLITS`


COLUMNS = Row._fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The rows of a data set, and where its images are.

    Attributes:
        rows: in the order in which they are stored, split by split.
        root: folder that the paths are relative to.
        lines: line of each row in the CSV file; empty for rows that a source made.
        make: makes the encoded image of a row; None for images that are files.
        settings: those of a source, for JSON; the prepared data set stores them.
        scales: of images of 16 bits by modality, where it is not "auto".
    """

    rows: Sequence[Row]
    root: Path = Path()
    lines: Sequence[int] = ()
    make: Callable[[Row], bytes] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scales: Mapping[str, Scale] = dataclasses.field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities in the order of their indices."""
        return modality_names.ordered(row.modality for row in self.rows)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have rows, in the order of `SPLITS`."""
        there = {row.split for row in self.rows}
        return tuple(split for split in SPLITS if split in there)

    def of(self, split: str) -> list[Row]:
        """Returns the rows of a split, in their order."""
        return [row for row in self.rows if row.split == split]

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns the number of images by split, then modality."""
        table = {split: dict.fromkeys(self.modalities, 0) for split in self.splits}
        for row in self.rows:
            table[row.split][row.modality] += 1
        return table


def number(texts: Iterable[str]) -> dict[str, int]:
    """Assigns every text a number, which is an int32 and not negative.

    Where all texts are whole numbers ("0006") they keep their values, so that the
    identities and cameras of published data sets have the numbers of the literature;
    otherwise, and where two texts have the same value, the numbers are positions in
    alphabetical order.
    """
    distinct = sorted(set(texts))
    if all(re.fullmatch("[0-9]{1,20}", text) for text in distinct):
        values = list(map(int, distinct))
        if len(set(values)) == len(values) and max(values, default=0) < 2**31:
            return dict(zip(distinct, values, strict=True))
    return {text: position for position, text in enumerate(distinct)}


def read_manifest(
    path: str | os.PathLike, images: str | os.PathLike | None = None
) -> tuple[Manifest, Findings]:
    """Reads a CSV file and checks every line by itself, without opening an image.

    Args:
        path: of the file: UTF-8 with or without a byte order mark, with any line
            endings, fields separated by commas, semicolons or tabs, quoted fields, and
            columns in any order. Spaces around a field are removed; columns of other
            names are ignored with a warning.
        images: folder that the paths are relative to; None for the folder of the file.

    Returns:
        The rows that can be used, and the problems of the others.

    Raises:
        InputError: the file cannot be read as such a table at all.
    """
    if images is not None:
        check_named(images)
    path = Path(path).expanduser()
    root = path.parent if images is None else Path(images).expanduser()
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder; --images expects the folder that the paths in"
            f" {path} are relative to."
        )
    findings = Findings()
    text = _text(path)
    # Excel writes semicolons where the comma is a decimal point.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True
    )
    rows: list[tuple[int, Row]] = []
    end = 0
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        _check_header(path, header, findings)
        end = reader.line_num
        for fields in reader:
            # The first line of the row: a quoted field may hold line ends.
            line, end = end + 1, reader.line_num
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(header):
                closed = ", and close every quote" if end > line else ""
                findings.problem(
                    "rows of another length",
                    f"{path}, line {line} has {len(fields)} fields, but the header has"
                    f" {len(header)}; quote a field that holds a comma{closed}.",
                )
                continue
            name, *labels = (fields[header.index(column)].strip() for column in COLUMNS)
            rows.append((line, Row(name, *map(_composed, labels))))
    except csv.Error as error:
        findings.problem(
            "rows that are not CSV",
            f"{path}, line {end + 1} and all that follow cannot be read as CSV"
            f" ({error}); look for a quote in it that is not closed.",
        )
    rows = _usable_rows(path, root, rows, findings)
    lines = [line for line, _ in rows]
    return Manifest(rows=[row for _, row in rows], root=root, lines=lines), findings


def write_manifest(path: str | os.PathLike, rows: Iterable[Row]) -> None:
    """Writes a CSV file that `read_manifest` reads, completely or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_atomically(Path(path), text.getvalue().encode())


def find_rows(
    folders: Mapping[str, Path],
    root: Path,
    *,
    test: float = 1 / 3,
    val: float = 0.0,
    seed: int = 0,
) -> list[Row]:
    """Lists the images of folders as rows of a manifest.

    The identity is the name of the first folder. The camera is the name of the second,
    or the name of the modality if images lie directly in the folder of an identity.
    Identities for the splits test and val are drawn from those that have images in
    every modality; all others are in train.

    Args:
        folders: the folder of the images of each modality, by the modality's name.
        root: folder that the paths in the rows are relative to; it holds the others.
        test: share of the identities that are drawn for the split test.
        val: share for the split val.
        seed: of the draw.

    Raises:
        InputError: there are fewer than two folders, a folder does not exist or holds
            no image, an image is not in the folder of an identity, a share is not from
            0 to 1, or there are too few identities.
    """
    if len(folders) < 2:
        raise InputError(
            f"{len(folders) or 'No'} folder is given, but two modalities or more are"
            " expected; give a folder for each: --folder=visible=DIR"
            " --folder=infrared=DIR."
        )
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise InputError(
            "One folder is given for two modalities"
            f" ({', '.join(map(str, folders.values()))}); give each its own."
        )
    shares = {"test": test, "val": val}
    for split, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(
                f"The share of the identities for {split} is {share}; give one from 0"
                " to 1."
            )
    rows: list[Row] = []
    for modality, folder in folders.items():
        rows += _rows_of_folder(modality, folder, root)
    split_of = _draw_splits(rows, len(folders), shares, seed)
    return [row._replace(split=split_of.get(row.identity, "train")) for row in rows]


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except InputError as error:
        raise InputError(f"The manifest cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"The manifest {path} is not UTF-8 text (byte {error.start}); save it as"
            " CSV UTF-8."
        ) from error


def _check_header(path: Path, header: Sequence[str], findings: Findings) -> None:
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        found = ", ".join(name for name in header if name) or "nothing"
        hint = "the first line names the columns"
        if len(header) == 1:
            hint = "fields are separated by commas"
        raise InputError(
            f"{path} has no column {', '.join(missing)} (its first line has: {found});"
            f" expected {','.join(COLUMNS)}: {hint}."
        )
    for name in header:
        if header.count(name) > 1 and name in COLUMNS:
            raise InputError(
                f"{path} has the column {name} twice; remove one of the two."
            )
        if name and name not in COLUMNS:
            findings.warning("other columns", f"The column {name} is ignored.")


def _usable_rows(
    path: Path, root: Path, rows: Iterable[tuple[int, Row]], findings: Findings
) -> list[tuple[int, Row]]:
    """Returns the rows that are valid by themselves, each path once, by split."""
    first: dict[str, tuple[int, Row]] = {}
    for line, row in rows:
        place = f"{path}, line {line}"
        wrong = _wrong_fields(row, root)
        if wrong:
            findings.problem(wrong[0], f"{place}: {wrong[1]}")
            continue
        row = row._replace(path=_file_name(row.path, root) or row.path)
        seen, same = first.setdefault(row.path, (line, row))
        if row != same:
            findings.problem(
                "images listed twice",
                f"{place}: the image {row.path} has other labels in line {seen}; remove"
                " one of the two rows.",
            )
        elif line != seen:
            findings.warning(
                "images listed twice",
                f"{place}: the image {row.path} is listed in line {seen} already; it is"
                " used once.",
            )
    return sorted(first.values(), key=lambda item: SPLITS.index(item[1].split))


def _wrong_fields(row: Row, root: Path) -> tuple[str, str] | None:
    """Returns what is wrong with a row: a kind of problem and a sentence."""
    empty = [column for column, text in zip(COLUMNS, row, strict=True) if not text]
    if empty:
        return "empty fields", f"the field {', '.join(empty)} is empty; fill it in."
    if row.split not in SPLITS:
        return "unknown splits", (
            f"the split {row.split!r} is unknown; write one of {', '.join(SPLITS)}."
        )
    name = posixpath.normpath(row.path)
    if posixpath.isabs(name) or name == ".." or name.startswith("../"):
        return "paths outside the folder", (
            f"the path {row.path} leaves the folder {root}; write it relative to that"
            " folder, or give another one with --images."
        )
    if _file_name(row.path, root) is None:
        slashes = ", with forward slashes" if "\\" in name else ""
        return "images that do not exist", (
            f"there is no image {root / name}; correct the path{slashes}, or remove"
            " the row."
        )
    return None


def _file_name(path: str, root: Path) -> str | None:
    """Returns a path in the form of Unicode in which there is such a file."""
    name = posixpath.normpath(path)
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((form for form in forms if _is_file(root / form)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _rows_of_folder(modality: str, folder: Path, root: Path) -> Iterable[Row]:
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder; give the folder of the {modality} images."
        )
    # One folder deeper than an identity and a camera, to name what is too deep.
    paths = sorted(images_below(folder, 3))
    if not paths:
        raise InputError(
            f"{folder} holds no image ({', '.join(SUFFIXES)}); expected"
            f" {folder}/IDENTITY/IMAGE or {folder}/IDENTITY/CAMERA/IMAGE."
        )
    for path in paths:
        parts = path.relative_to(folder).parts
        if len(parts) not in (2, 3):
            raise InputError(
                f"The image {path} is not in the folder of an identity; expected"
                f" {folder}/IDENTITY/{path.name} or"
                f" {folder}/IDENTITY/CAMERA/{path.name}."
            )
        camera = parts[1] if len(parts) == 3 else modality
        name = path.relative_to(root).as_posix()
        yield Row(name, _composed(parts[0]), _composed(camera), modality, "train")


def _draw_splits(
    rows: Iterable[Row], num_modalities: int, shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Returns the split of every identity that is not in train."""
    seen = Counter(identity for identity, _ in {(r.identity, r.modality) for r in rows})
    complete = [i for i in sorted(seen) if seen[i] == num_modalities]
    numbers = {
        split: max(1, round(share * len(seen))) if share else 0
        for split, share in shares.items()
    }
    needed = sum(numbers.values())
    if needed >= len(complete):
        raise InputError(
            f"{len(complete)} of {len(seen)} identities have images in every modality,"
            f" but {needed} are needed for test and val and one for training; give"
            " smaller --test and --val or images of more identities, whose folders must"
            " have the same name in every modality."
        )
    drawn = iter(np.random.default_rng(seed).permutation(complete).tolist())
    return {next(drawn): split for split, n in numbers.items() for _ in range(n)}
