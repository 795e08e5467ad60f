"""The lists of a data set: who is in which split, and under which label."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mbn_jax.data.tree import Findings
from mbn_jax.evaluation.records import INFRARED, VISIBLE, Records


class IndexLine(NamedTuple):
    """A line "path label" of an index file.

    Attributes:
        place: the file and the line, to name it in a sentence.
        name: path relative to the root.
        label: the number after it.
    """

    place: str
    name: str
    label: int


def read_identities(path: Path, findings: Findings) -> list[int]:
    """The ascending identities in a list such as "6,10,17"; none if it is missing."""
    identities: set[int] = set()
    for word in re.split(r"[,\s]+", _text(path, findings).strip()):
        if not re.fullmatch(r"[0-9]+", word):
            if word:
                findings.problem(
                    "malformed lists",
                    f"{path} holds {word[:40]!r} where the number of an identity should"
                    " be; copy the file from the archive of the data set.",
                )
        elif int(word) in identities:
            findings.problem(
                "malformed lists",
                f"{path} lists identity {int(word)} twice; copy the file from the"
                " archive of the data set.",
            )
        else:
            identities.add(int(word))
    if path.is_file() and not identities:
        findings.problem(
            "malformed lists",
            f"{path} lists no identity; copy the file from the archive of the data"
            " set.",
        )
    return sorted(identities)


def read_index(path: Path, pattern: str, findings: Findings) -> list[IndexLine]:
    """The lines "path label" of a file; none if it is missing.

    Args:
        path: the index file.
        pattern: what a path has to match.
        findings: receives a problem for every line that is none.
    """
    lines = []
    text = _text(path, findings)
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        place = f"{path}, line {number}"
        if (
            len(words) == 2
            and re.fullmatch(pattern, words[0])
            and re.fullmatch(r"[0-9]+", words[1])
        ):
            lines.append(IndexLine(place, words[0], int(words[1])))
        else:
            findings.problem(
                "malformed lines",
                f"{place}: {line[:80]!r} is not a path of this part of the data set and"
                " a label; copy the file from the archive of the data set.",
            )
    if path.is_file() and not text.strip():
        findings.problem(
            "malformed lines",
            f"{path} is empty; copy it from the archive of the data set.",
        )
    return lines


def listed_twice(line: IndexLine, first: IndexLine, findings: Findings) -> None:
    """Notes a line whose image another line has listed."""
    findings.problem(
        "images listed twice",
        f"{line.place} lists {line.name}, which {first.place} lists, too; copy the file"
        " from the archive of the data set.",
    )


def check_pairing(
    lines: Iterable[IndexLine], identity_of: Mapping[str, int], findings: Findings
) -> None:
    """Notes labels that stand for two identities, and identities with two labels.

    Args:
        lines: all that share one numbering.
        identity_of: the identity of each name, as its folder says.
        findings: receives a problem for the first line of every contradiction.
    """
    identity_with: dict[int, IndexLine] = {}
    label_of: dict[int, IndexLine] = {}
    told = set()
    for line in lines:
        identity = identity_of[line.name]
        for first in (
            identity_with.setdefault(line.label, line),
            label_of.setdefault(identity, line),
        ):
            other = identity_of[first.name]
            pair = (line.label, identity, first.label, other)
            if (line.label, identity) == (first.label, other) or pair in told:
                continue
            told.add(pair)
            findings.problem(
                "labels that contradict folders",
                f"{line.place} gives identity {identity} the label {line.label}, but"
                f" {first.place} gives identity {other} the label {first.label}; copy"
                " the files from the archive of the data set.",
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
            for identity in sorted(set(identities[first]) & set(identities[second])):
                findings.problem(
                    "identities in two lists",
                    f"Identity {identity} is in {first} and in {second}, but who is"
                    " trained on must not be tested; copy the lists from the archive"
                    " of the data set.",
                )


def check_present(
    split: str, listed: Sequence[int], records: Records, findings: Findings
) -> None:
    """Notes listed identities without images, and those with one modality only."""
    of = {
        modality: set(records.identity[records.modality == modality].tolist())
        for modality in (VISIBLE, INFRARED)
    }
    for identity in listed:
        missing = [m for m in (VISIBLE, INFRARED) if identity not in of[m]]
        if len(missing) == 2:
            findings.problem(
                "identities without images",
                f"Identity {identity} is listed for {split}, but has no image; copy its"
                " folders from the archive of the data set.",
            )
        elif missing:
            which = ("visible", "infrared")[missing[0]]
            findings.warning(
                "identities of one modality",
                f"Identity {identity} of {split} has no {which} image; training and"
                " search across modalities pass over it.",
            )


def _text(path: Path, findings: Findings) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        return ""  # noted by `check_there`
    except OSError as error:
        if path.exists() and not path.is_dir():
            findings.problem(
                "files that cannot be read",
                f"The file {path} cannot be read ({error.strerror or error}); make it"
                " one that you may read.",
            )
        return ""
