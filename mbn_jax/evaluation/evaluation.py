"""One set of features by one protocol, as ``experiments/evaluate.py`` shows it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.evaluation.distances import DISTANCE_TITLES, Distance
from mbn_jax.evaluation.feature_file import read_features
from mbn_jax.evaluation.galleries import read_permutations
from mbn_jax.evaluation.labels import check_labels
from mbn_jax.evaluation.protocols import make_protocol
from mbn_jax.evaluation.records import Records
from mbn_jax.evaluation.results import evaluate, size_note
from mbn_jax.evaluation.rules import Protocol
from mbn_jax.evaluation.table import counts, format_block


def protocol_of(dataset: str, options: Mapping[str, Any]) -> Protocol:
    """The protocol of a data set with options as they stand on a command line.

    Args:
        dataset: for example "regdb/split3".
        options: of `make_protocol`; and ``rand_perm_cam``, the path of a file, instead
            of ``permutations``.

    Raises:
        InputError: an option is not one of the protocol's, or the file cannot be read.
    """
    options = dict(options)
    path = options.pop("rand_perm_cam", None)
    if path is not None:
        options["permutations"] = read_permutations(path)
    return make_protocol(dataset.partition("/")[0], **options)


def evaluate_file(
    path: str | Path, family: str, options: Mapping[str, Any], distance: Distance
) -> dict[str, Any]:
    """Evaluates features of any framework.

    Args:
        path: of an ``.npz``, see `read_features`.
        family: of the protocol: "sysu_mm01", "regdb", "llcm", "synthetic_vireid".
        options: as for `protocol_of`.
        distance: "cosine", "euclidean" or "k_reciprocal".

    Returns:
        As `evaluation`.

    Raises:
        InputError: as `read_features`, `check_labels`, `protocol_of` and `evaluate` do.
    """
    protocol = protocol_of(family, options)
    features, records, of = read_features(path)
    warning = check_labels(family, records)
    if warning:
        print(f"warning: {path}: {warning}", file=sys.stderr)
    source = f"{path} ({of})" if of else str(path)
    return evaluation(features, records, protocol, distance=distance, source=source)


def evaluation(
    features: np.ndarray,
    records: Records,
    protocol: Protocol,
    *,
    distance: Distance,
    source: str,
) -> dict[str, Any]:
    """Figures with all that is needed to know what they are.

    Says on standard error where the sizes are not those of the complete data set, since
    an image more or less also changes which others are drawn.

    Args:
        features: (N, D) floating.
        records: N of them.
        protocol: who is query, who is gallery.
        distance: "cosine", "euclidean" or "k_reciprocal".
        source: what the features are of, for people.

    Returns:
        The dictionary of `evaluate` for the protocol, with ``title`` and
        ``description`` of the protocol, ``distance`` and ``source``.

    Raises:
        InputError: as `evaluate` does.
    """
    figures = evaluate(features, records, [protocol], distance=distance)
    found = figures[protocol.name]
    note = size_note(protocol, found)
    if note:
        print(f"warning: {source}: {note}", file=sys.stderr)
    return found | {
        "title": protocol.title,
        "description": protocol.description,
        "distance": distance,
        "source": source,
    }


def format_evaluation(result: Mapping[str, Any], *, as_json: bool = False) -> str:
    """A table for a terminal, or JSON.

    Args:
        result: as `evaluation` returns it.
        as_json: the whole result as one JSON object.
    """
    if as_json:
        return json.dumps(result, indent=2, ensure_ascii=False)
    return "\n".join(
        [
            f"{result['source']}: {result['title']}, "
            f"{DISTANCE_TITLES[result['distance']]}",
            f"{counts(result)}; in per cent",
            "",
            *format_block({"": result}),
            "",
            result["description"],
        ]
    )
