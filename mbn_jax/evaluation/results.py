"""From the features of a split to the content of ``results.json``."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.errors import InputError
from mbn_jax.evaluation.chance import chance_level
from mbn_jax.evaluation.distances import Distance, features_of, k_reciprocal_distances
from mbn_jax.evaluation.metrics import (
    feature_metrics,
    feature_query_figures,
    retrieval_metrics,
)
from mbn_jax.evaluation.protocols import Protocol, Trial, check_protocol
from mbn_jax.evaluation.records import Records
from mbn_jax.evaluation.table import cells, counts
from mbn_jax.files import read_json

# By the names of the protocols.
Figures = dict[str, dict[str, Any]]


def evaluate(
    features: np.ndarray,
    records: Records,
    protocols: Sequence[Protocol],
    *,
    distance: Distance = "cosine",
) -> Figures:
    """Figures of the features of one set of images, by each protocol.

    Args:
        features: (N, D) floating.
        records: N of them.
        protocols: who is query, who is gallery.
        distance: "cosine" or "euclidean"; or "k_reciprocal", which re-ranks by the
            neighbors of all queries and gallery images, see `k_reciprocal_distances`.

    Returns:
        For each protocol's name the dictionary of `retrieval_metrics`, its figures the
        means over the trials; with ``trials``, a list of the dictionaries of the
        trials (without ``cmc``), and ``protocol``, the name.

    Raises:
        InputError: the features are not a matrix of finite numbers with a row for each
            record, there is no match to find, or the machine has not enough memory to
            re-rank.
    """
    features = features_of(records, features)

    def figures(trial: Trial, protocol: Protocol) -> dict[str, Any]:
        query, gallery = (features[rows] for rows in trial)
        labels = _labels(records, trial)
        if distance == "k_reciprocal":
            distances = k_reciprocal_distances(query, gallery)
            return retrieval_metrics(distances, *labels, protocol=protocol)
        return feature_metrics(
            query, gallery, *labels, protocol=protocol, distance=distance
        )

    return _by_protocol(figures, records, protocols)


def average_precisions(
    features: np.ndarray, records: Records, protocol: Protocol
) -> np.ndarray:
    """Average precision of every query of every trial, by the cosine distance.

    Args:
        features: (N, D) floating.
        records: N of them.
        protocol: who is query, who is gallery.

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
        feature_query_figures(
            features[trial.query],
            features[trial.gallery],
            *_labels(records, trial),
            protocol=protocol,
        )
        for trial in trials
    ]
    precisions = [np.where(of.rank > 0, of.average_precision, np.nan) for of in found]
    if any(not np.array_equal(trial.query, trials[0].query) for trial in trials):
        return np.concatenate(precisions)
    matched = ~np.isnan(precisions)
    total = np.sum(precisions, axis=0, where=matched)
    return np.where(matched.any(0), total / np.maximum(matched.sum(0), 1), np.nan)


def evaluate_chance(records: Records, protocols: Sequence[Protocol]) -> Figures:
    """The figures that guessing would have in `evaluate`, from the labels alone."""

    def figures(trial: Trial, protocol: Protocol) -> dict[str, Any]:
        return chance_level(*_labels(records, trial), protocol=protocol)

    return _by_protocol(figures, records, protocols)


def _by_protocol(
    figures: Callable[[Trial, Protocol], dict[str, Any]],
    records: Records,
    protocols: Sequence[Protocol],
) -> Figures:
    for protocol in protocols:
        check_protocol(protocol)
    return {
        protocol.name: mean_over_trials(
            [figures(trial, protocol) for trial in protocol.trials(records)]
        )
        | {"protocol": protocol.name}
        for protocol in protocols
    }


def _labels(records: Records, trial: Trial) -> tuple[np.ndarray, ...]:
    query, gallery = trial
    return (
        records.identity[query],
        records.identity[gallery],
        records.camera[query],
        records.camera[gallery],
    )


def mean_over_trials(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the figures of several trials, and the trials themselves.

    Args:
        trials: at least one, each as `retrieval_metrics` returns it.

    Returns:
        The same keys; a count is a whole number where it is the same in all trials.
        And ``trials``, the dictionaries without their ``cmc``.
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


def size_note(protocol: Protocol, figures: Mapping[str, Any]) -> str:
    """Says where the test set is not the complete one of a data set; empty if it is.

    Args:
        protocol: knows the sizes of the complete test set, or does not.
        figures: of this protocol.
    """
    others = [
        f"{size:.12g} {what} instead of {expected}"
        for what, expected, size in (
            ("queries", protocol.published_queries, figures["num_queries"]),
            ("gallery images", protocol.published_gallery, figures["gallery_size"]),
        )
        if expected not in (None, size)
    ]
    if not others:
        return ""
    return (
        f"{' and '.join(others)}: this is not the complete test set, and the figures "
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
    """The content of ``results.json``: what was measured, how, and on which steps.

    Args:
        dataset: name of the data set.
        split: the split on which all the figures were measured.
        task: what is searched for, for example "person re-identification".
        selection: what the network was trained on and how its step was chosen.
        protocols: by which `figures` were measured.
        figures: by the name of a row ("last", "best", "untrained", "chance"): its
            `Figures`, and ``step`` where it is a network's.
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
    """The results of a finished run, once it is sure that they can be shown.

    Args:
        path: of ``results.json``, whose content `make_results` gave.

    Raises:
        InputError: it cannot be read, or lacks something that is shown.
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
    """Takes out of results what a report takes, and raises where that fails."""
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
        raise TypeError("a step is no whole number")
