"""From the features of a split to the content of ``results.json``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mbn_jax.evaluation.chance import chance_level
from mbn_jax.evaluation.metrics import cosine_distances, retrieval_metrics
from mbn_jax.evaluation.protocols import EMBEDDED_PROTOCOLS, Protocol

Figures = dict[str, dict[str, Any]]


def evaluate(
    features: np.ndarray,
    identity: np.ndarray,
    camera: np.ndarray,
    modality: np.ndarray,
) -> Figures:
    """Figures of one network on one split of an embedded data set, both directions.

    Args:
        features: (N, D) float32, L2-normalised.
        identity: (N,) int.
        camera: (N,) int.
        modality: (N,) int, 0 visible or 1 infrared.

    Returns:
        ``{"infrared_to_visible": {...}, "visible_to_infrared": {...}}``, each as
        `retrieval_metrics` returns it.

    Raises:
        InputError: the features are not finite, or a direction has no match to find.
    """

    def figures(protocol: Protocol) -> dict[str, Any]:
        query, gallery = sides(modality, protocol)
        return retrieval_metrics(
            cosine_distances(features[query], features[gallery]),
            identity[query],
            identity[gallery],
            camera[query],
            camera[gallery],
            protocol=protocol,
        )

    return {protocol.name: figures(protocol) for protocol in EMBEDDED_PROTOCOLS}


def evaluate_chance(
    identity: np.ndarray, camera: np.ndarray, modality: np.ndarray
) -> Figures:
    """The figures that guessing would have in `evaluate`, from the labels alone."""

    def figures(protocol: Protocol) -> dict[str, Any]:
        query, gallery = sides(modality, protocol)
        return chance_level(
            identity[query],
            identity[gallery],
            camera[query],
            camera[gallery],
            protocol=protocol,
        )

    return {protocol.name: figures(protocol) for protocol in EMBEDDED_PROTOCOLS}


def sides(modality: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the query images and of the gallery images, in the split's order."""
    return (
        np.flatnonzero(modality == protocol.query_modality),
        np.flatnonzero(modality == protocol.gallery_modality),
    )


def make_results(
    *,
    dataset: str,
    split: str,
    selection: str,
    last: tuple[int, Figures],
    best: tuple[int, Figures],
    untrained: Figures,
    chance: Figures,
) -> dict[str, Any]:
    """The content of ``results.json``: what was measured, how, and on which steps.

    Args:
        dataset: name of the data set.
        split: the split on which all the figures were measured.
        selection: how the best step was chosen, to stand after a colon.
        last: the last step and its figures.
        best: the step that was best on validation, and its figures.
        untrained: figures of the network before the first step.
        chance: from `evaluate_chance`.
    """
    figures: Mapping[str, Mapping[str, Any]] = {
        "last": {"step": last[0], **last[1]},
        "best": {"step": best[0], **best[1]},
        "untrained": {"step": 0, **untrained},
        "chance": chance,
    }
    return {
        "dataset": dataset,
        "split": split,
        "selection": selection,
        "protocols": {p.name: p.description for p in EMBEDDED_PROTOCOLS},
        "figures": figures,
    }
