"""One set of features by one protocol, as `python -m mbn_jax evaluate` shows it."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.evaluation.distances import DISTANCE_TITLES, Distance
from mbn_jax.evaluation.feature_file import read_features
from mbn_jax.evaluation.protocols import Protocol
from mbn_jax.evaluation.records import Labels, Records, check_labels
from mbn_jax.evaluation.results import evaluate, size_note
from mbn_jax.evaluation.table import counts, format_block


def evaluate_file(
    path: str | Path,
    protocol: Protocol | Callable[[Records], Protocol],
    *,
    labels: Labels | None = None,
    distance: Distance = "cosine",
) -> dict[str, Any]:
    """Evaluates features of any framework.

    Args:
        path: of an ``.npz``, see `read_features`.
        protocol: the protocol; or a function that makes it from the file's records, if
            it depends on the names of their modalities.
        labels: what is known of the labels and paths of the data set, or None.
        distance: "cosine", "euclidean" or "k_reciprocal".

    Returns:
        As `evaluation`.

    Raises:
        InputError: as `read_features`, `check_labels` and `evaluate` do.
    """
    features, records, of = read_features(path)
    if not isinstance(protocol, Protocol):
        protocol = protocol(records)
    warning = check_labels(records, labels)
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
        return json.dumps(result, indent=2)
    return "\n".join(
        [
            f"{result['source']}: {result['title']}, "
            f"{DISTANCE_TITLES[result['distance']]}",
            f"{counts(result)}; in percent",
            "",
            *format_block({"": result}),
            "",
            result["description"],
        ]
    )
