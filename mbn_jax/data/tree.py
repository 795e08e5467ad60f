"""What a walk through the folders of a data set finds: its images, and what is wrong.

A data set's own `scan` returns a `Tree` and stops at nothing, so that everything wrong
is known after one walk.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mbn_jax.evaluation.records import Records


class ImageFile(NamedTuple):
    """One image and what its path says of it.

    Attributes:
        name: path relative to the root, with forward slashes.
        identity: the data set's own number.
        camera: the data set's own number.
        modality: 0 visible, 1 infrared.
    """

    name: str
    identity: int
    camera: int
    modality: int


class Finding(NamedTuple):
    """Something wrong, or only odd, in a tree.

    Attributes:
        kind: what several of them are called, for example "unreadable images".
        sentence: names the file or the folder and says what to do.
    """

    kind: str
    sentence: str


class Count(NamedTuple):
    """A number that is published, and the number found.

    Attributes:
        what: for example "train cam3 images".
        expected: as published.
        found: in this tree.
    """

    what: str
    expected: int
    found: int


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a walk has met so far.

    Attributes:
        problems: what has to be mended before the tree can be used.
        warnings: what is left out or unusual.
    """

    problems: list[Finding] = dataclasses.field(default_factory=list)
    warnings: list[Finding] = dataclasses.field(default_factory=list)

    def problem(self, kind: str, sentence: str) -> None:
        """Notes what has to be mended."""
        self.problems.append(Finding(kind, sentence))

    def warning(self, kind: str, sentence: str) -> None:
        """Notes what the user should know."""
        self.warnings.append(Finding(kind, sentence))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """The images of a data set on disk, by split, and what is wrong with them.

    Attributes:
        root: the folder that was walked.
        splits: the records by split, such as "train", or "split3/train" for a data set
            with several configurations.
        problems: what has to be mended; the splits may be incomplete if there are any.
        warnings: what was left out, or is unusual.
        counts: published numbers and those found.
        left_out: names of the images of the layout that are in no split.
        checksums: CRC-32 of each image file of the splits by name; empty until the
            images have been read.
        num_bytes: of the image files of the splits together; 0 until they have been
            read.
    """

    root: Path
    splits: Mapping[str, Records]
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    counts: tuple[Count, ...]
    left_out: tuple[str, ...] = ()
    checksums: Mapping[str, int] = dataclasses.field(default_factory=dict)
    num_bytes: int = 0

    @property
    def names(self) -> list[str]:
        """The images of all splits, each once."""
        names = (name for split in self.splits.values() for name in split.name)
        return list(dict.fromkeys(map(str, names)))


def outside(names: Iterable[str], splits: Mapping[str, Records]) -> tuple[str, ...]:
    """Those of some images that are in no split, in their order."""
    used = {name for records in splits.values() for name in records.name.tolist()}
    return tuple(name for name in names if name not in used)


def records_of(images: Iterable[ImageFile]) -> Records:
    """The labels of some images, in their order."""
    images = list(images)
    return Records(
        identity=np.array([image.identity for image in images], np.int32),
        camera=np.array([image.camera for image in images], np.int32),
        modality=np.array([image.modality for image in images], np.int32),
        name=np.array([image.name for image in images], str),
    )
