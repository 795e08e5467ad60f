"""The data of a run: its splits, and what dataset.json says of them afterwards."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mbn_jax.data.catalog import Info
from mbn_jax.data.dataset import (
    Split,
    load_split,
    training_split,
    validation_split,
)
from mbn_jax.data.pipeline import damaged_images
from mbn_jax.data.sixteen_bits import scale_from_text
from mbn_jax.data.sources import protocols_of
from mbn_jax.errors import InputError
from mbn_jax.evaluation.protocols import Protocol
from mbn_jax.files import read_json
from mbn_jax.modalities import DEFAULT
from mbn_jax.training.processes import check_same_everywhere, gather, together

DATASET = "dataset.json"
_SHOWN = 5  # damaged records, of which each has a line


@dataclasses.dataclass(frozen=True)
class Splits:
    """The data of a run.

    Attributes:
        train: what the batches are drawn from.
        validation: chooses the best step; None to train on everything and take the
            last.
        test: never looked at before the end. Its identities are in no other.
        selection: a sentence that says this about the run, for its results.
    """

    train: Split
    validation: Split | None
    test: Split
    selection: str

    def __str__(self) -> str:
        """The sizes, and how the step is chosen."""
        named = {"train": self.train, "val": self.validation, "test": self.test}
        splits = {name: split for name, split in named.items() if split is not None}
        sizes = ", ".join(
            f"{name} {len(split)} images of {_num_identities(split)} identities"
            for name, split in splits.items()
        )
        lines = [f"{self.train.dataset}: {sizes}", self.selection]
        damaged = [phrase for split in splits.values() for phrase in split.damaged]
        if damaged:
            lines += [f"Left out: {_records(damaged)}"]
            lines += [f"  {phrase}" for phrase in damaged[:_SHOWN]]
            lines += ["  …"] * (len(damaged) > _SHOWN)
        return "\n".join(lines)


def load_splits(config: ConfigDict) -> Splits:
    """Opens the splits of a configuration and decodes every image once.

    Raises:
        InputError: the data set is not known or not prepared, a record is damaged and
            not to be skipped, or fewer identities than `data.num_val_identities` can be
            taken out of training.
    """
    train, validation, test = together(lambda: _open(config))
    skip, num_threads = config.data.skip_damaged, config.data.num_threads
    train = _whole(train, skip, num_threads)
    # Metrics on a part of the test would not be those of its protocol.
    test = _whole(test, False, num_threads)
    num_carved = config.data.num_val_identities
    if num_carved:
        train, validation = carve_validation(train, num_carved, config.seed)
    elif validation is not None:
        validation = _whole(validation, skip, num_threads)
    # Copies on the disks of several hosts may differ.
    for split in (train, validation, test):
        if split is not None:
            labels = split.name, split.identity, split.camera, split.modality
            fingerprint = split.info.fingerprint if split.info else ""
            held = [fingerprint, *(a.tolist() for a in labels)]
            check_same_everywhere(repr(held), "data set")
    selection = _selection(train, validation, num_carved)
    return Splits(train, validation, test, selection)


def _selection(train: Split, validation: Split | None, num_carved: int) -> str:
    """What the network is trained on and how its step is chosen."""
    damaged = f"without {_records(train.damaged)}" if train.damaged else ""
    if validation is None:
        identities = f"all {_num_identities(train)} training identities"
        return (
            f"Trained on {', '.join(filter(None, [identities, damaged]))}, without "
            "validation: the last step is taken, and no step was chosen by its metrics."
        )
    people = (
        f"{num_carved} identities taken out of training"
        if num_carved
        else "the validation split, whose identities are in neither training nor test"
    )
    text = (
        "Best on validation is the step with the highest mean of the mAP of all "
        f"protocols on {people}; among equals the latest."
    )
    if damaged:
        text += f" Trained {damaged}."
    if validation.damaged:
        text += f" Validated without {_records(validation.damaged)}."
    return text


def _open(config: ConfigDict) -> tuple[Split, Split | None, Split]:
    """The data set's splits for training, validation if it has one, and test."""
    dataset, data_dir = config.data.dataset, config.data.data_dir
    skip = config.data.skip_damaged
    name = None
    if not config.data.num_val_identities:
        name = validation_split(dataset, data_dir)
    return (
        load_split(dataset, training_split(dataset), data_dir, skip_damaged=skip),
        load_split(dataset, name, data_dir, skip_damaged=skip) if name else None,
        load_split(dataset, "test", data_dir),
    )


def _whole(split: Split, skip: bool, num_threads: int) -> Split:
    """The images that can be decoded; each process tries its share of them."""
    share = np.arange(len(split))[jax.process_index() :: jax.process_count()]
    mine = damaged_images(split, share, num_threads=num_threads)
    damaged = {
        int(index): mine.get(
            index,
            f"The image {split.name[index]} of {split.dataset}/{split.split} cannot be "
            "decoded by another process",
        )
        for index in np.concatenate(gather(np.array(sorted(mine), np.int64)))
    }
    return split.without_damaged(damaged, skip)


def carve_validation(
    split: Split, num_identities: int, seed: int
) -> tuple[Split, Split]:
    """Takes at least one identity out of a training split, drawn by the seed alone.

    They are drawn among the identities that every camera of the split has seen, so that
    the protocol of the test applies to them.

    Returns:
        What is left for training, and the validation split, named "val". Both keep the
        order of the records.

    Raises:
        InputError: too few identities were seen by every camera, or none would be left.
    """
    cameras = np.unique(split.camera)
    views = np.unique(np.stack([split.identity, split.camera], axis=1), axis=0)
    identities, seen_by = np.unique(views[:, 0], return_counts=True)
    eligible = identities[seen_by == len(cameras)]
    most = min(len(eligible), len(identities) - 1)
    if num_identities > most:
        raise InputError(
            f"config.data.num_val_identities is {num_identities}, but "
            f"{len(eligible)} of the {len(identities)} identities of "
            f"{split.dataset}/{split.split} were seen by all of its {len(cameras)} "
            f"cameras, and one must be left for training; give {most} or less, or 0 to "
            "train on all."
        )
    chosen = np.random.default_rng(seed).choice(eligible, num_identities, replace=False)
    in_validation = np.isin(split.identity, chosen)
    return (
        split.select(np.flatnonzero(~in_validation)),
        split.select(np.flatnonzero(in_validation), split="val", damaged=()),
    )


def scored_protocols(split: Split) -> tuple[list[Protocol], list[str]]:
    """Finds the protocols of a split's data set by which it can be scored.

    Returns:
        The protocols in which a query has a match, and the titles of the others, such
        as those between modalities that share no identity.

    Raises:
        InputError: no query of any protocol has a match.
    """
    protocols = protocols_of(split.dataset, split.modalities)
    scored = [protocol for protocol in protocols if protocol.has_match(split)]
    if not scored:
        raise InputError(
            f"No image of {split.dataset}/{split.split} has a match: no identity in it "
            "was seen in two modalities by different cameras (and in both roles, where "
            "there are queries and galleries); add such images to that split."
        )
    return scored, [p.title for p in protocols if p not in scored]


def _records(damaged: Sequence[str]) -> str:
    return f"{len(damaged)} damaged record{'s' * (len(damaged) > 1)}"


def _num_identities(split: Split) -> int:
    return len(np.unique(split.identity))


def describe(data: Info) -> dict[str, Any]:
    """Returns the content of `dataset.json`."""
    return {
        "dataset": data.dataset,
        "modalities": data.modalities,
        "task": data.task,
        "fingerprint": data.fingerprint,
        "sixteen_bits": data.sixteen_bits.get("scales", {}),
    }


def modalities_of(workdir: str | Path) -> tuple[str, ...]:
    """Returns the names of the modalities that a run was trained on, by index.

    A run without `dataset.json`, of an earlier version, has the default names.

    Raises:
        InputError: the file cannot be read, or names no modalities.
    """
    path = Path(workdir) / DATASET
    if not path.exists():
        return DEFAULT
    names = read_json(path).get("modalities")
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and name for name in names)
        or len(set(names)) < len(names)
    ):
        raise InputError(
            f"{path} is damaged: its modalities are {names!r}, expected a list of "
            "distinct names; restore the file from a copy of the run."
        )
    return tuple(names)


def sixteen_bits_of(workdir: str | Path) -> tuple[str, ...]:
    """Returns how images of 16 bits were scaled for a run, for `ReID.sixteen_bits`.

    Returns:
        A text for each modality, as `mbn_jax.data.sixteen_bits` has them; none where
        all are "auto", or where an earlier version wrote the file.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    path = Path(workdir) / DATASET
    scales = read_json(path).get("sixteen_bits", {}) if path.exists() else {}
    modalities = modalities_of(workdir)
    try:
        if not isinstance(scales, dict) or not scales.keys() <= set(modalities):
            raise ValueError("they are not those of its modalities")
        texts = [str(scale_from_text(scales.get(m, "auto"))) for m in modalities]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged: the scales of images of 16 bits are {scales!r}, "
            "expected one for each of some modalities, as --sixteen_bits has them; "
            "restore the file from a copy of the run."
        ) from error
    return tuple(texts) if scales else ()


def differing_data(workdir: Path, data: Info | None) -> str:
    """Returns a phrase if a run was trained on other data of the same name, or "".

    `data` describes the present data; None if nothing is known of them.
    """
    if data is None or not (workdir / DATASET).exists():
        return ""
    before = read_json(workdir / DATASET).get("fingerprint")
    if before == data.fingerprint:
        return ""
    return (
        f"{workdir} was trained on other data of the name {data.dataset} (its "
        f"fingerprint was {str(before)[:12]} and is now "
        f"{data.fingerprint[:12]})"
    )


def check_data(workdir: Path, data: Info | None) -> None:
    """Warns if a run was not trained on the present data, see `differing_data`.

    Raises:
        InputError: they have other modalities, which the network does not know, or
            `dataset.json` is damaged.
    """
    differing = differing_data(workdir, data)
    if not differing or data is None:
        return
    before = modalities_of(workdir)
    if before != tuple(data.modalities):
        raise InputError(
            f"{differing}, with the modalities {', '.join(before)} and not "
            f"{', '.join(data.modalities)}; give data of the same modalities "
            "(--data_dir)."
        )
    print(f"warning: {differing}.", file=sys.stderr)
