"""How similar images of one identity are, and images of two, by the cosine."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from mbn_jax.analysis.charts import BLUE, INK, ORANGE, chart, svg
from mbn_jax.analysis.page import Section
from mbn_jax.evaluation.distances import l2_normalize
from mbn_jax.evaluation.records import Records

# All pairs of more images would fill the memory: SYSU-MM01 has fifty million.
MOST_IMAGES = 2_000
_BINS = 50
_WORDS = (
    "How similar two test images are to the network: the cosine of their embeddings, "
    "1 for the same direction, 0 for directions at a right angle. The farther the two "
    "hills lie apart, the easier it is to tell identities apart, and the task asks for "
    "that across the modalities. AUC is the probability that two images of one "
    "identity are more similar than two images of two identities: 1 is perfect, 0.5 "
    "is guessing. Two images by one camera can be nearly the same picture, which would "
    "flatter the last chart."
)


class Pairs(NamedTuple):
    """Cosines of all pairs of images of one kind.

    Attributes:
        kind: what the two images have in common, as a title.
        same: (P,) float32, of two images of one identity.
        different: (Q,) float32, of images of two identities.
    """

    kind: str
    same: np.ndarray
    different: np.ndarray


def similarities(features: np.ndarray, records: Records) -> list[Pairs]:
    """Computes the cosines of all pairs of images, by what their cameras share.

    Of more than `MOST_IMAGES` images, so many are drawn by a fixed seed.

    Args:
        features: (N, D) floating, of any length.
        records: N of them.

    Returns:
        The kinds that have pairs: across the modalities, for each pair of these where
        there are more than two; one modality and two cameras; one modality and one
        camera. A data set with one camera for each modality has no two cameras of one.
    """
    rows = np.arange(len(features))
    if len(rows) > MOST_IMAGES:
        rng = np.random.default_rng(0)
        rows = np.sort(rng.choice(rows, MOST_IMAGES, replace=False))
    directions = l2_normalize(features[rows])
    cosines = np.clip(directions @ directions.T, -1, 1)
    each_once = np.triu(np.ones(cosines.shape, bool), 1)

    def equal(labels: np.ndarray) -> np.ndarray:
        return labels[rows, None] == labels[rows]

    identity, camera = equal(records.identity), equal(records.camera)
    modality = equal(records.modality)
    kinds = {
        **_across(records.modality[rows], records.modalities),
        "One modality, two cameras": modality & ~camera,
        "One modality, one camera": modality & camera,
    }
    found = [
        Pairs(
            kind,
            cosines[each_once & of_kind & identity],
            cosines[each_once & of_kind & ~identity],
        )
        for kind, of_kind in kinds.items()
    ]
    return [pairs for pairs in found if len(pairs.same) + len(pairs.different)]


def _across(modality: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns which pairs (N, N) of images are of two modalities, by kinds."""
    if len(names) == 2:
        return {"Across the modalities": modality[:, None] != modality}
    return {
        f"Across {names[a]} and {names[b]}": (
            (np.minimum(modality[:, None], modality) == a)
            & (np.maximum(modality[:, None], modality) == b)
        )
        for a, b in itertools.combinations(range(len(names)), 2)
    }


def auc(same: np.ndarray, different: np.ndarray) -> float:
    """The probability that a value of `same` is above one of `different`.

    Args:
        same: (P,), not empty.
        different: (Q,), not empty.

    Returns:
        A fraction; equal values count by half.
    """
    different = np.sort(different)
    below = np.searchsorted(different, same, "left").mean()
    not_above = np.searchsorted(different, same, "right").mean()
    return float((below + not_above) / 2 / len(different))


def similarity_section(features: np.ndarray, records: Records) -> Section:
    """`similarities` as charts, which have one range of cosines.

    Args:
        features: (N, D) floating, of any length.
        records: N of them.
    """
    found = similarities(features, records)
    words = _WORDS
    if len(features) > MOST_IMAGES:
        words += (
            f" The pairs are those of {MOST_IMAGES:,} images, drawn by a fixed seed "
            f"from all {len(features):,}."
        )
    edges = bin_edges(found)
    return Section("Similarity", words, [_chart(pairs, edges) for pairs in found])


def bin_edges(found: list[Pairs]) -> np.ndarray:
    """Edges of 50 bins from the least cosine to the greatest, rounded to tenths."""
    values = [v for pairs in found for v in (pairs.same, pairs.different) if len(v)]
    low = np.floor(10 * min((v.min() for v in values), default=0.0)) / 10
    high = np.ceil(10 * max((v.max() for v in values), default=1.0)) / 10
    return np.linspace(min(low, high - 0.1), high, _BINS + 1)


def shares(cosines: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The share of the pairs in each bin, in percent, (bins,); of none, zeros."""
    counts, _ = np.histogram(cosines, edges)
    return 100 * counts / max(1, len(cosines))


def _chart(pairs: Pairs, edges: np.ndarray) -> str:
    title = pairs.kind
    if len(pairs.same) and len(pairs.different):
        title += f", AUC {auc(pairs.same, pairs.different):.2f}"
    figure, axes = chart(title, "cosine of two images", "pairs, %")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    hills = (
        ("two identities", pairs.different, ORANGE),
        ("one identity", pairs.same, BLUE),
    )
    for label, cosines, color in hills:
        heights = shares(cosines, edges)
        label = f"{label}: {len(cosines):,} pairs"
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.45, label=label)
        axes.stairs(heights, edges, color=color, lw=1.5)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper left")
    return svg(figure)
