"""The published and the synthetic data sets: each has one file with all its facts.

A new data set is a file that defines ``SOURCE`` and a line in `MODULES`.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from mbn_jax.data.sources.source import Option, Source, check_choice
from mbn_jax.errors import InputError
from mbn_jax.evaluation.protocols import Protocol, every_pair

MODULES = {
    "synthetic_vireid": "mbn_jax.data.sources.synthetic_vireid",
    "aligned_pairs": "mbn_jax.data.sources.aligned_pairs",
    "sysu_mm01": "mbn_jax.data.sources.sysu_mm01",
    "regdb": "mbn_jax.data.sources.regdb",
    "llcm": "mbn_jax.data.sources.llcm",
}

# The option of every data set that has no protocols of its own.
DIRECTION = Option(
    "direction",
    str,
    "The modality of the queries and that of the gallery, for example"
    " infrared_to_visible (the default if these are the only two).",
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


def task_of(dataset: str) -> str:
    """Returns the task of a data set as a phrase, for example "re-identification"."""
    source = source_of(dataset)
    return source.task if source else "re-identification"


def protocols_of(dataset: str, modalities: Sequence[str]) -> tuple[Protocol, ...]:
    """Returns the protocols that a data set is reported by, the usual one first.

    Args:
        dataset: its name.
        modalities: the names of its modalities, by index.
    """
    source = source_of(dataset)
    if source and source.protocols:
        return source.protocols()
    return every_pair(modalities)


def protocol_of(
    dataset: str, modalities: Sequence[str], options: Mapping[str, Any]
) -> Protocol:
    """Returns the protocol of a data set with options as on a command line.

    Args:
        dataset: its name.
        modalities: the names of its modalities, by index.
        options: values by name. The options are those of the source, or `DIRECTION` if
            it has no protocol function; missing ones have their defaults.

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
