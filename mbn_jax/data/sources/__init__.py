"""The published and the synthetic data sets: each has one file with all its facts.

A new data set is a file that defines ``SOURCE`` and a line in `MODULES`.
"""

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mbn_jax.data.findings import Findings
from mbn_jax.data.manifest import Manifest
from mbn_jax.errors import InputError
from mbn_jax.evaluation.protocols import Protocol, every_pair
from mbn_jax.evaluation.records import Labels

MODULES = {
    name: f"mbn_jax.data.sources.{name}"
    for name in ("synthetic_vireid", "aligned_pairs", "sysu_mm01", "regdb", "llcm")
}

# The folders that each flag gives, by the name of the flag: one or several.
Folders = Mapping[str, Sequence[Path]]


class Option(NamedTuple):
    """An option of a data set's protocols, a flag of `python -m mbn_jax evaluate`."""

    name: str  # of the flag
    kind: Any  # `str`, `int`, or the tuple of allowed texts
    help: str


# Of the data sets of two modalities: the indices of the queries' and the gallery's.
DIRECTIONS = {"visible_to_infrared": (0, 1), "infrared_to_visible": (1, 0)}
DIRECTION_OF_TWO = Option(
    "direction",
    tuple(DIRECTIONS),
    "visible_to_infrared (the default) or infrared_to_visible.",
)
# The option of every data set that has no protocols of its own.
DIRECTION = Option(
    "direction",
    str,
    "The modality of the queries and that of the gallery, for example"
    " infrared_to_visible (the default if these are the only two).",
)


class SplitRuns(NamedTuple):
    """The data sets over whose runs the published result is a mean."""

    pattern: str  # their names, for example "regdb/split{split}"
    numbers: tuple[int, ...]  # the values of ``{split}``
    word: str  # how many they are, for example "ten"


@dataclasses.dataclass(frozen=True)
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


def source_of(dataset: str) -> Source | None:
    """Returns the source of a data set by its name, or None for the user's own data.

    Args:
        dataset: for example "regdb/split3", or the name of a manifest's data set.
    """
    module = MODULES.get(dataset.partition("/")[0])
    return importlib.import_module(module).SOURCE if module else None


def all_sources() -> list[Source]:
    """Returns every source, in the order of `MODULES`."""
    return [importlib.import_module(module).SOURCE for module in MODULES.values()]


def known_datasets() -> str:
    """Returns the names of the data sets of all sources, for an error message."""
    return ", ".join(
        f"{names[0]} to {names[-1]}" if len(names) > 3 else ", ".join(names)
        for names in (source.datasets for source in all_sources())
        if names
    )


def check_name(dataset: str) -> None:
    """Checks the name of a data set, unless it may be that of the user's own data.

    Raises:
        InputError: a source of that name has no such data set.
    """
    source = source_of(dataset)
    if source and not source.knows(dataset):
        raise InputError(
            f"There is no data set {dataset!r}; the known ones are {known_datasets()}."
        )


def task_of(dataset: str) -> str:
    """Returns the task of a data set as a phrase, for example "re-identification"."""
    source = source_of(dataset)
    return source.task if source else "re-identification"


def protocols_of(dataset: str, modalities: Sequence[str]) -> tuple[Protocol, ...]:
    """Returns the protocols that a data set is reported by, the usual one first."""
    source = source_of(dataset)
    if source and source.protocols:
        return source.protocols()
    return every_pair(modalities)


def protocol_of(
    dataset: str, modalities: Sequence[str], options: Mapping[str, Any]
) -> Protocol:
    """Returns the protocol of a data set with options as on a command line.

    The options are those of the source, or `DIRECTION` if it has no protocol function.

    Raises:
        InputError: the data set has no such option, or does not allow its value.
    """
    source = source_of(dataset)
    make = source.protocol if source else None
    known = [o.name for o in source.options] if source and make else [DIRECTION.name]
    for option in options:
        if option not in known:
            raise InputError(
                f"The protocol {dataset} has no option {option!r}; it has"
                f" {', '.join(known)}."
            )
    if make:
        return make(**options)
    pairs = {protocol.name: protocol for protocol in every_pair(modalities)}
    direction = options.get(DIRECTION.name, next(iter(pairs)))
    return pairs[check_choice("direction", direction, tuple(pairs))]


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
