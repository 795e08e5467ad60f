"""What guessing scores: exact expectations over uniformly random rankings.

A figure such as "mAP 12 %" says nothing until one knows what no knowledge at all
would give. That depends only on how many gallery images a query sees and how many of
them match, so it is computed, not simulated.
"""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mbn_jax.evaluation.metrics import CMC_LENGTH, as_figures, no_match
from mbn_jax.evaluation.protocols import Protocol


def chance_level(
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    protocol: Protocol,
) -> dict[str, Any]:
    """Expected figures when each query's gallery is in a uniformly random order.

    Args:
        query_ids: (Q,) identities.
        gallery_ids: (G,) identities.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.
        protocol: its ``remove_same_camera`` is applied.

    Returns:
        The dictionary of `retrieval_metrics`.

    Raises:
        InputError: no query has a match in the gallery.
    """
    queries = list(zip(np.asarray(query_ids), np.asarray(query_cameras), strict=True))
    gallery = list(
        zip(np.asarray(gallery_ids), np.asarray(gallery_cameras), strict=True)
    )
    same_identity = Counter(identity for identity, _ in gallery)
    same_camera = Counter(gallery) if protocol.remove_same_camera else Counter()

    # The expectation depends on (N, R) alone, and few such pairs occur.
    sizes: Counter[tuple[int, int]] = Counter()
    for identity, camera in queries:
        removed = same_camera[identity, camera]
        sizes[len(gallery) - removed, same_identity[identity] - removed] += 1
    scored = {size: count for size, count in sizes.items() if size[1] > 0}
    if not scored:
        raise no_match(protocol, len(queries), len(gallery))

    weights = list(scored.values())
    length = min(CMC_LENGTH, len(gallery))
    return as_figures(
        cmc=np.average([expected_cmc(*s, length) for s in scored], 0, weights),
        mean_ap=np.average([expected_ap(*s) for s in scored], weights=weights),
        mean_inp=np.average([expected_inp(*s) for s in scored], weights=weights),
        num_queries=len(queries),
        num_valid_queries=sum(weights),
        gallery_size=len(gallery),
    )


def expected_cmc(size: int, matches: int, length: int) -> np.ndarray:
    r"""Probability of a match among the first k of N images of which R match.

    Drawing without replacement,
    :math:`1 - \prod_{i<k} \frac{N - R - i}{N - i}`: one minus the hypergeometric
    probability of k misses.

    Args:
        size: N, images in the gallery of the query.
        matches: R, matches among them, at least one.
        length: number of ranks; ranks beyond N hold the value 1.

    Returns:
        (length,) float64, for k = 1 ... length.
    """
    drawn = np.arange(min(length, size))
    misses = np.cumprod(np.maximum(size - matches - drawn, 0) / (size - drawn))
    return np.pad(1.0 - misses, (0, length - len(drawn)), constant_values=1.0)


def expected_ap(size: int, matches: int) -> float:
    r"""Expected average precision of a random ranking of N images, R of them matches.

    Rank k holds a match with probability R/N, and then the k - 1 images before it
    hold (k - 1)(R - 1)/(N - 1) more on average. With
    :math:`H_N = \sum_{k \le N} 1/k` the mean precision at a match is therefore

    .. math:: \frac1N \sum_{k=1}^N \frac1k \Bigl(1 + (k-1) \frac{R-1}{N-1}\Bigr)
       = \frac1N \Bigl(H_N + \frac{R-1}{N-1} (N - H_N)\Bigr)

    (Bestgen, "Exact expected average precision of the random baseline for system
    evaluation", Prague Bulletin of Mathematical Linguistics 103, 2015).
    """
    if size == 1:
        return 1.0
    harmonic = np.sum(1.0 / np.arange(1, size + 1))
    others = (matches - 1) / (size - 1)
    return float((harmonic + others * (size - harmonic)) / size)


def expected_inp(size: int, matches: int) -> float:
    r"""Expected R / (rank of the last match) in a random ranking of N images.

    The last match is at rank k with probability
    :math:`p_k = \binom{k-1}{R-1} / \binom{N}{R}`, so :math:`p_N = R/N` and
    :math:`p_{k-1} = p_k (k-R)/(k-1)`, which needs no large binomials.
    """
    rank = np.arange(size, matches - 1, -1)
    steps = np.concatenate([[matches / size], (rank[:-1] - matches) / (rank[:-1] - 1)])
    return float(np.sum(np.cumprod(steps) * matches / rank))
