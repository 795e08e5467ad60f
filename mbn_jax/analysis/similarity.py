"""How alike images of one person are, and images of two, by the cosine."""

from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from mbn_jax.analysis.charts import BLUE, INK, ORANGE, chart, svg
from mbn_jax.analysis.page import Section
from mbn_jax.evaluation.distances import l2_normalise
from mbn_jax.evaluation.records import Records

# All pairs of more images would fill the memory: SYSU-MM01 has fifty million.
MOST_IMAGES = 2_000
_BINS = 50
_WORDS = (
    "How alike the network finds two test images: the cosine of their embeddings, 1 "
    "for the same direction, 0 for directions at a right angle. The farther the two "
    "hills lie apart, the easier it is to tell people apart, and across the "
    "modalities is what is asked. AUC is the probability that two images of one "
    "person are more alike than two images of two people: 1 is perfect, 0.5 is "
    "guessing. Two images by one camera can be nearly the same picture, which would "
    "flatter the last chart."
)


class Pairs(NamedTuple):
    """Cosines of all pairs of images of one kind.

    Attributes:
        kind: what the two images have in common, as a title.
        same: (P,) float32, of two images of one person.
        different: (Q,) float32, of images of two people.
    """

    kind: str
    same: np.ndarray
    different: np.ndarray


def similarities(features: np.ndarray, records: Records) -> list[Pairs]:
    """The cosines of all pairs of test images, by what their cameras have in common.

    Of more than `MOST_IMAGES` images, so many are drawn by a fixed seed.

    Args:
        features: (N, D) floating, of any length.
        records: N of them.

    Returns:
        The kinds that have pairs, of at most three: a data set with one camera for each
        modality has no two cameras of one.
    """
    rows = np.arange(len(features))
    if len(rows) > MOST_IMAGES:
        rng = np.random.default_rng(0)
        rows = np.sort(rng.choice(rows, MOST_IMAGES, replace=False))
    directions = l2_normalise(features[rows])
    cosines = np.clip(directions @ directions.T, -1, 1)
    each_once = np.triu(np.ones(cosines.shape, bool), 1)

    def equal(labels: np.ndarray) -> np.ndarray:
        return labels[rows, None] == labels[rows]

    person, camera = equal(records.identity), equal(records.camera)
    modality = equal(records.modality)
    kinds = {
        "Across the modalities": ~modality,
        "One modality, two cameras": modality & ~camera,
        "One modality, one camera": modality & camera,
    }
    found = [
        Pairs(
            kind,
            cosines[each_once & of_kind & person],
            cosines[each_once & of_kind & ~person],
        )
        for kind, of_kind in kinds.items()
    ]
    return [pairs for pairs in found if len(pairs.same) + len(pairs.different)]


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
    """The share of the pairs in each bin, in per cent, (bins,); of none, zeros."""
    counts, _ = np.histogram(cosines, edges)
    return 100 * counts / max(1, len(cosines))


def _chart(pairs: Pairs, edges: np.ndarray) -> str:
    title = pairs.kind
    if len(pairs.same) and len(pairs.different):
        title += f", AUC {auc(pairs.same, pairs.different):.2f}"
    figure, axes = chart(title, "cosine of two images", "pairs, %")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    hills = (("two people", pairs.different, ORANGE), ("one person", pairs.same, BLUE))
    for label, cosines, colour in hills:
        heights = shares(cosines, edges)
        label = f"{label}: {len(cosines):,} pairs"
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.45, label=label)
        axes.stairs(heights, edges, color=colour, lw=1.5)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper left")
    return svg(figure)
