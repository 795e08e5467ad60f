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
import io
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mbn_jax import modalities as modality_names
from mbn_jax.data.findings import Findings
from mbn_jax.data.sixteen_bits import Scale
from mbn_jax.errors import InputError
from mbn_jax.files import check_named, read_bytes, write_atomically

SPLITS = ("train", "val", "test", "query", "gallery")
_LARGEST = 2**31 - 1
_DIGITS = re.compile("[0-9]{1,20}")


class Row(NamedTuple):
    """One image.

    Attributes:
        path: relative to the folder of images, with forward slashes.
        identity: who or what is shown.
        camera: which camera took it.
        modality: for example "visible".
        split: one of `SPLITS`.
    """

    path: str
    identity: str
    camera: str
    modality: str
    split: str


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
    if all(_DIGITS.fullmatch(text) for text in distinct):
        values = [int(text) for text in distinct]
        if len(set(values)) == len(values) and max(values, default=0) <= _LARGEST:
            return dict(zip(distinct, values, strict=True))
    return {text: position for position, text in enumerate(distinct)}


def composed(text: str) -> str:
    """Returns a text in the composed form of Unicode (NFC)."""
    return unicodedata.normalize("NFC", text)


def read_manifest(
    path: str | os.PathLike, images: str | os.PathLike | None = None
) -> tuple[Manifest, Findings]:
    """Reads a CSV file and checks every line by itself, without opening an image.

    Args:
        path: of the file: UTF-8 with or without a byte order mark, with any line
            endings, fields separated by commas, semicolons or tabs, quoted fields, and
            columns in any order. Spaces around a field are
            removed; columns of other names are ignored with a warning.
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
    rows: list[Row] = []
    lines: list[int] = []
    end = 0
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        _check_header(path, header, findings)
        position = [header.index(column) for column in COLUMNS]
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
            fields = [fields[i].strip() for i in position]
            # A Mac writes ü as two characters in names of files: labels are one form.
            rows.append(Row(fields[0], *map(composed, fields[1:])))
            lines.append(line)
    except csv.Error as error:
        findings.problem(
            "rows that are not CSV",
            f"{path}, line {end + 1} and all that follow cannot be read as CSV"
            f" ({error}); look for a quote in it that is not closed.",
        )
    manifest = Manifest(rows=rows, root=root, lines=lines)
    return _checked_rows(path, manifest, findings), findings


def write_manifest(path: str | os.PathLike, rows: Iterable[Row]) -> None:
    """Writes a CSV file that `read_manifest` reads, completely or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_atomically(Path(path), text.getvalue().encode())


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
        hint = (
            "fields are separated by commas"
            if len(header) == 1
            else "the first line names the columns"
        )
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


def _checked_rows(path: Path, manifest: Manifest, findings: Findings) -> Manifest:
    """Returns the rows that are valid by themselves, each path once, by split."""
    first: dict[str, tuple[Row, int]] = {}
    for row, line in zip(manifest.rows, manifest.lines, strict=True):
        place = f"{path}, line {line}"
        empty = [column for column, text in zip(COLUMNS, row, strict=True) if not text]
        if empty:
            findings.problem(
                "empty fields",
                f"{place}: the field {', '.join(empty)} is empty; fill it in.",
            )
            continue
        if row.split not in SPLITS:
            findings.problem(
                "unknown splits",
                f"{place}: the split {row.split!r} is unknown; write one of"
                f" {', '.join(SPLITS)}.",
            )
            continue
        name = posixpath.normpath(row.path)
        if posixpath.isabs(name) or name == ".." or name.startswith("../"):
            findings.problem(
                "paths outside the folder",
                f"{place}: the path {row.path} leaves the folder {manifest.root}; write"
                " it relative to that folder, or give another one with --images.",
            )
            continue
        forms = [name, *(unicodedata.normalize(f, name) for f in ("NFC", "NFD"))]
        name = next((n for n in forms if _is_file(manifest.root / n)), name)
        if not _is_file(manifest.root / name):
            slashes = ", with forward slashes" if "\\" in name else ""
            findings.problem(
                "images that do not exist",
                f"{place}: there is no image {manifest.root / name}; correct the path"
                f"{slashes}, or remove the row.",
            )
            continue
        row = row._replace(path=name)
        if name not in first:
            first[name] = row, line
        elif row == first[name][0]:
            findings.warning(
                "images listed twice",
                f"{place}: the image {name} is listed in line {first[name][1]} already;"
                " it is used once.",
            )
        else:
            findings.problem(
                "images listed twice",
                f"{place}: the image {name} has other labels in line"
                f" {first[name][1]}; remove one of the two rows.",
            )
    kept = sorted(first.values(), key=lambda item: SPLITS.index(item[0].split))
    return dataclasses.replace(
        manifest, rows=[row for row, _ in kept], lines=[line for _, line in kept]
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False
