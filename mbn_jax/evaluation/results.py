"""From features and labels to metrics by protocol, and the content of results.json."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.errors import InputError
from mbn_jax.evaluation.chance import chance_level
from mbn_jax.evaluation.distances import Distance, features_of, k_reciprocal_distances
from mbn_jax.evaluation.features import read_features
from mbn_jax.evaluation.metrics import (
    feature_metrics,
    feature_query_metrics,
    retrieval_metrics,
)
from mbn_jax.evaluation.protocols import Protocol, Trial, check_protocol
from mbn_jax.evaluation.records import LabelArrays, Labels, Records, check_labels
from mbn_jax.evaluation.table import cells, counts
from mbn_jax.files import read_json

# Metrics by the names of the protocols.
Figures = dict[str, dict[str, Any]]


def evaluate(
    features: np.ndarray,
    records: Records,
    protocols: Sequence[Protocol],
    *,
    distance: Distance = "cosine",
) -> Figures:
    """Metrics of the features of one set of images, by each protocol.

    Args:
        features: (N, D) floating.
        records: N of them.
        protocols: say which images are queries and which are the gallery.
        distance: "cosine" or "euclidean"; or "k_reciprocal", which re-ranks by the
            neighbors of all queries and gallery images, see `k_reciprocal_distances`.

    Returns:
        For each protocol's name the dictionary of `retrieval_metrics`, with the means
        over the trials; with `trials`, a list of the dictionaries of the trials
        (without `cmc`), and `protocol`, the name.

    Raises:
        InputError: the features are not a matrix of finite numbers with a row for each
            record, there is no match to find, or the machine has not enough memory to
            re-rank.
    """
    features = features_of(records, features)

    def metrics(trial: Trial, protocol: Protocol) -> dict[str, Any]:
        query, gallery = (features[rows] for rows in trial)
        labels = _labels(records, trial)
        if distance == "k_reciprocal":
            distances = k_reciprocal_distances(query, gallery)
            return retrieval_metrics(distances, *labels, protocol=protocol)
        return feature_metrics(
            query, gallery, *labels, protocol=protocol, distance=distance
        )

    return _by_protocol(metrics, records, protocols)


def evaluate_chance(records: Records, protocols: Sequence[Protocol]) -> Figures:
    """The metrics that guessing would have in `evaluate`, from the labels alone."""

    def metrics(trial: Trial, protocol: Protocol) -> dict[str, Any]:
        return chance_level(*_labels(records, trial), protocol=protocol)

    return _by_protocol(metrics, records, protocols)


def evaluate_protocol(
    features: np.ndarray,
    records: Records,
    protocol: Protocol,
    *,
    distance: Distance,
    source: str,
) -> dict[str, Any]:
    """Metrics by one protocol, with all that is needed to know what they are.

    Prints a warning on standard error if the sizes are not those of the complete data
    set, since an image more or less also changes which others are drawn.

    Args:
        features: (N, D) floating.
        records: N of them.
        protocol: says which images are queries and which are the gallery.
        distance: "cosine", "euclidean" or "k_reciprocal".
        source: says what the features are of, for people.

    Returns:
        The dictionary of `evaluate` for the protocol, with `title` and
        `description` of the protocol, `distance` and `source`.

    Raises:
        InputError: as `evaluate` does.
    """
    found = evaluate(features, records, [protocol], distance=distance)[protocol.name]
    if note := size_note(protocol, found):
        print(f"warning: {source}: {note}", file=sys.stderr)
    return found | {
        "title": protocol.title,
        "description": protocol.description,
        "distance": distance,
        "source": source,
    }


def evaluate_file(
    path: str | Path,
    protocol: Protocol | Callable[[Records], Protocol],
    *,
    labels: Labels | None = None,
    distance: Distance = "cosine",
) -> dict[str, Any]:
    """Evaluates features of any framework.

    Args:
        path: an `.npz`, see `read_features`.
        protocol: the protocol; or a function that makes it from the file's records, if
            it depends on the names of their modalities.
        labels: what is known of the labels and paths of the data set, or None.
        distance: "cosine", "euclidean" or "k_reciprocal".

    Returns:
        As `evaluate_protocol`.

    Raises:
        InputError: as `read_features`, `check_labels` and `evaluate` do.
    """
    features, records, of = read_features(path)
    if not isinstance(protocol, Protocol):
        protocol = protocol(records)
    if warning := check_labels(records, labels):
        print(f"warning: {path}: {warning}", file=sys.stderr)
    source = f"{path} ({of})" if of else str(path)
    return evaluate_protocol(
        features, records, protocol, distance=distance, source=source
    )


def average_precisions(
    features: np.ndarray, records: Records, protocol: Protocol
) -> np.ndarray:
    """Average precision of every query of every trial, by the cosine distance.

    Args:
        features: (N, D) floating.
        records: N of them.
        protocol: says which images are queries and which are the gallery.

    Returns:
        (Q,) float64, the mean over the trials in which the query has a match, NaN if
        there is none; where trials have other queries, one after the other.

    Raises:
        InputError: as `evaluate` does.
    """
    check_protocol(protocol)
    features = features_of(records, features)
    trials = protocol.trials(records)
    found = [
        feature_query_metrics(
            features[trial.query],
            features[trial.gallery],
            _labels(records, trial),
            protocol,
        )
        for trial in trials
    ]
    precisions = [np.where(of.rank > 0, of.average_precision, np.nan) for of in found]
    if any(not np.array_equal(trial.query, trials[0].query) for trial in trials):
        return np.concatenate(precisions)
    matched = ~np.isnan(precisions)
    total = np.sum(precisions, axis=0, where=matched)
    return np.where(matched.any(0), total / np.maximum(matched.sum(0), 1), np.nan)


def _by_protocol(
    metrics: Callable[[Trial, Protocol], dict[str, Any]],
    records: Records,
    protocols: Sequence[Protocol],
) -> Figures:
    for protocol in protocols:
        check_protocol(protocol)
    return {
        protocol.name: mean_over_trials(
            [metrics(trial, protocol) for trial in protocol.trials(records)]
        )
        | {"protocol": protocol.name}
        for protocol in protocols
    }


def _labels(records: Records, trial: Trial) -> LabelArrays:
    query, gallery = trial
    return (
        records.identity[query],
        records.identity[gallery],
        records.camera[query],
        records.camera[gallery],
    )


def mean_over_trials(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the metrics of several trials, and the trials themselves.

    Args:
        trials: at least one, each as `retrieval_metrics` returns it.

    Returns:
        The same keys; a count is a whole number where it is the same in all trials.
        And `trials`, the dictionaries without their `cmc`.
    """
    mean: dict[str, Any] = {}
    for key in trials[0]:
        # A smaller gallery has a shorter CMC, whose end holds for all further ranks.
        values = [trial[key] for trial in trials]
        if key == "cmc":
            length = max(map(len, values))
            padded = [value + value[-1:] * (length - len(value)) for value in values]
            mean[key] = np.mean(padded, axis=0).tolist()
        elif all(value == values[0] for value in values):
            mean[key] = values[0]
        else:
            mean[key] = float(np.mean(values))
    return mean | {
        "trials": [
            {key: value for key, value in trial.items() if key != "cmc"}
            for trial in trials
        ]
    }


def size_note(protocol: Protocol, metrics: Mapping[str, Any]) -> str:
    """Says where a test set is not the complete one; empty if it is, or not known."""
    others = [
        f"{size:.12g} {what} instead of {expected}"
        for what, expected, size in (
            ("queries", protocol.published_queries, metrics["num_queries"]),
            ("gallery images", protocol.published_gallery, metrics["gallery_size"]),
        )
        if expected not in (None, size)
    ]
    if not others:
        return ""
    return (
        f"{' and '.join(others)}: this is not the complete test set, and the metrics "
        "are not comparable with published ones."
    )


def make_results(
    *,
    dataset: str,
    split: str,
    task: str,
    selection: str,
    protocols: Sequence[Protocol],
    figures: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of `results.json`: what was measured, how, and on which steps.

    Args:
        dataset: name of the data set.
        split: the split on which everything was measured.
        task: what is searched for, for example "person re-identification".
        selection: what the network was trained on and how its step was chosen.
        protocols: the protocols of the metrics.
        figures: the metrics by protocol for each row ("last", "best", "untrained",
            "chance"), and `step` where a row is a network's.
    """
    return {
        "dataset": dataset,
        "split": split,
        "task": task,
        "selection": selection,
        "protocols": {
            protocol.name: {
                "title": protocol.title,
                "description": protocol.description,
                "note": size_note(
                    protocol, next(iter(figures.values()))[protocol.name]
                ),
            }
            for protocol in protocols
        },
        "figures": figures,
    }


def read_results(path: Path) -> dict[str, Any]:
    """Reads `results.json` of a finished run.

    Raises:
        InputError: it cannot be read, or lacks something that a report shows.
    """
    results = read_json(path)
    try:
        _check_shown(results)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        missing = f" (it has no {error})" if isinstance(error, KeyError) else ""
        raise InputError(
            f"{path} does not hold the results as this version of mbn_jax writes them"
            f"{missing}: give the run's training command again, which writes them anew."
        ) from error
    return results


def _check_shown(results: Mapping[str, Any]) -> None:
    """Takes what a report takes, so that what is missing raises an error here."""
    figures = results["figures"]
    texts = [results["dataset"], results["split"], results["selection"]]
    steps = [figures["last"]["step"]]
    steps += [of_row["step"] for of_row in figures.values() if "step" in of_row]
    for name, words in results["protocols"].items():
        texts += [words["title"], words["description"]]
        figures["chance"][name]
        for of_row in figures.values():
            cells(of_row[name])
            counts(of_row[name])
            if np.asarray(of_row[name]["cmc"], float).ndim != 1:
                raise ValueError("a CMC is one list")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is something else")
    if not all(isinstance(step, int) for step in steps):
        raise TypeError("a step is not a whole number")
