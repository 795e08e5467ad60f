"""What this package has to know about a data set that is not the user's own."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mbn_jax.data.findings import Findings
from mbn_jax.data.manifest import Manifest
from mbn_jax.errors import InputError
from mbn_jax.evaluation.protocols import Protocol
from mbn_jax.evaluation.records import Labels

# The folders that each flag gives, by the name of the flag: one or several.
Folders = Mapping[str, Sequence[Path]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """What a walk through the folder of a data set has found.

    Attributes:
        root: the folder.
        manifests: one for each name that was asked for, such as "regdb/split3"; they
            may be incomplete if there are problems.
        findings: problems, warnings and published counts.
        left_out: paths of images in the folder that are in no split.
    """

    root: Path
    manifests: Mapping[str, Manifest]
    findings: Findings
    left_out: Sequence[str] = ()


class Option(NamedTuple):
    """An option of a data set's protocols, a flag of `python -m mbn_jax evaluate`.

    Attributes:
        name: of the flag.
        kind: `str`, `int`, or the tuple of allowed texts.
        help: a sentence.
    """

    name: str
    kind: Any
    help: str


class SplitRuns(NamedTuple):
    """The data sets over whose runs the published result is a mean.

    Attributes:
        pattern: their names, for example "regdb/split{split}".
        numbers: the values of ``{split}``.
        word: how many they are, for example "ten".
    """

    pattern: str
    numbers: tuple[int, ...]
    word: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, or a family of them, with all facts about it.

    Attributes:
        name: the part of its data sets' names before the slash.
        datasets: the names of its data sets; the usual ones where there are more.
        pattern: matches the whole names of its other data sets; "" if there are none.
        ask: where to get it and how its folder looks, in sentences for an error; empty
            for data that are made on this machine.
        folders: the flags of `python -m mbn_jax prepare` for the folders from which
            it is made.
        optional_folders: more such flags.
        scan: walks these folders. Takes their paths by flag and the names of the data
            sets that are wanted; raises `InputError` if they are not such folders at
            all. None if ``make`` is given.
        make: makes the manifest of a data set by its name, without a folder; None for
            data that are made from folders.
        training: the split to train on, as in the literature: "train" or "train+val".
        validation: a split that is like the test, with other identities, or None.
        task: a phrase for the title of a report.
        protocols: the protocols that it is reported by, the usual one first; None for
            every ordered pair of modalities.
        protocol: the protocol with options by name; None where there are none.
        options: those of ``protocol``.
        labels: known labels of feature files; None if nothing is known.
        images_per_modality: training images of the larger modality by data set name,
            from which recipes count their epochs; empty if they ask the prepared copy.
        split_runs: over whose runs the published result is a mean; None where one run
            is the result.
    """

    name: str
    datasets: tuple[str, ...]
    pattern: str = ""
    ask: str = ""
    folders: tuple[str, ...] = ("manual_dir",)
    optional_folders: tuple[str, ...] = ()
    scan: Callable[[Folders, Sequence[str]], Scan] | None = None
    make: Callable[[str], Manifest] | None = None
    training: str = "train"
    validation: str | None = None
    task: str = "person re-identification"
    protocols: Callable[[], tuple[Protocol, ...]] | None = None
    protocol: Callable[..., Protocol] | None = None
    options: tuple[Option, ...] = ()
    labels: Labels | None = None
    images_per_modality: Mapping[str, int] = dataclasses.field(default_factory=dict)
    split_runs: SplitRuns | None = None

    def knows(self, dataset: str) -> bool:
        """Returns whether the source has a data set of that full name."""
        return dataset in self.datasets or bool(
            self.pattern and re.fullmatch(self.pattern, dataset)
        )


def check_choice(option: str, value: str, choices: Sequence[str]) -> str:
    """Returns the value of an option of a protocol if it is allowed.

    Raises:
        InputError: it is not one of the choices.
    """
    if value not in choices:
        raise InputError(
            f"{option} is {value!r}, but one of {', '.join(choices)} is expected."
        )
    return value
