"""What guessing scores: exact expectations over uniformly random rankings.

"mAP 12 %" says nothing until one knows what guessing would give. That depends only on
how many gallery images a query sees and how many of them match, so it is computed and
not simulated.
"""

import functools
import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mbn_jax.evaluation.metrics import CMC_LENGTH, as_dictionary, no_match
from mbn_jax.evaluation.protocols import Protocol, check_protocol
from mbn_jax.evaluation.ranking import codes
from mbn_jax.evaluation.records import label_arrays


def chance_level(
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    protocol: Protocol,
) -> dict[str, Any]:
    """Expected metrics when each query's gallery is in a uniformly random order.

    Args:
        query_ids: (Q,) identities.
        gallery_ids: (G,) identities.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.
        protocol: says what is removed for a query and what the CMC counts.

    Returns:
        The dictionary of `retrieval_metrics`.

    Raises:
        InputError: the labels or the protocol do not fit, or no query has a match in
            the gallery.
    """
    check_protocol(protocol)
    labels = label_arrays(query_ids, gallery_ids, query_cameras, gallery_cameras)
    query_ids, gallery_ids = codes(*labels[:2])
    query_cameras, gallery_cameras = labels[2:]
    queries = Counter(zip(query_ids.tolist(), query_cameras.tolist(), strict=True))

    # The expectation depends on a few sizes alone, and few combinations occur.
    combinations: Counter[tuple[tuple[int, ...], int]] = Counter()
    for (identity, camera), count in queries.items():
        removed = protocol.removed(identity, camera, gallery_ids, gallery_cameras)
        sizes = np.bincount(gallery_ids[~removed], minlength=identity + 1)
        matches, sizes[identity] = int(sizes[identity]), 0
        if matches:
            others = tuple(np.sort(sizes[sizes > 0]).tolist())
            combinations[others, matches] += count
    if not combinations:
        raise no_match(protocol, len(query_ids), len(gallery_ids))

    length = min(CMC_LENGTH, len(gallery_ids))
    expected = []
    for others, matches in combinations:
        size = sum(others) + matches
        if protocol.cmc == "identities":
            cmc = expected_identity_cmc(matches, others, length)
        else:
            cmc = expected_cmc(size, matches, length)
        expected.append((cmc, expected_ap(size, matches), expected_inp(size, matches)))
    weights = list(combinations.values())
    cmcs, precisions, penalties = zip(*expected, strict=True)
    return as_dictionary(
        cmc=np.average(cmcs, 0, weights),
        mean_ap=np.average(precisions, weights=weights),
        mean_inp=np.average(penalties, weights=weights),
        num_queries=len(query_ids),
        num_valid_queries=sum(weights),
        gallery_size=len(gallery_ids),
    )


@functools.cache
def expected_identity_cmc(
    matches: int, others: tuple[int, ...], length: int
) -> np.ndarray:
    r"""Probability that the query's identity is among the first k of the gallery's.

    Identities rank by their first images. Let every image arrive at a time that is
    uniform in [0, 1]. The first of R matches arrives after $1 - u$ with
    probability $u^R$, and each other identity j, with $n_j$ images, has
    arrived by then with probability $1 - u^{n_j}$, one independently of the
    other, so

    $$
    \mathrm{CMC}(k) = \int_0^1 R u^{R-1} \;
    P\Bigl(\sum_j \mathrm{Bernoulli}(1 - u^{n_j}) < k\Bigr) \, du .
    $$

    The integrand is a polynomial of degree N - 1 for N images, which Gauss-Legendre
    quadrature with N / 2 nodes integrates exactly. It changes fastest near u = 1, on a
    scale of 1 / N, where n nodes lie 1 / n^2 apart. A few times the root of N nodes
    leave an error below 1e-9, as measured up to 100,000 images.

    Args:
        matches: R, images of the query's identity, at least one.
        others: $n_j$, images of each of the other identities.
        length: number of ranks.

    Returns:
        (length,) float64, for k = 1 ... length.
    """
    size = matches + sum(others)
    num_nodes = min(size // 2 + 1, 64 + 4 * math.isqrt(size))
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    u = (nodes + 1) / 2
    weights = weights / 2 * matches * u ** (matches - 1)
    # How many of the other identities have arrived: row by row of nodes, up to length.
    arrived = np.zeros((num_nodes, length))
    arrived[:, 0] = 1
    for images, count in Counter(others).items():
        waits = (u**images)[:, None]
        for _ in range(count):
            arrives = np.pad(arrived[:, :-1], ((0, 0), (1, 0)))
            arrived = waits * arrived + (1 - waits) * arrives
    # The sum of all may exceed one by a rounding.
    return np.minimum(np.cumsum(weights @ arrived), 1.0)


def expected_cmc(size: int, matches: int, length: int) -> np.ndarray:
    r"""Probability of a match among the first k of N images of which R match.

    Drawing without replacement,
    $1 - \prod_{i<k} \frac{N - R - i}{N - i}$: one minus the hypergeometric
    probability of k misses.

    Args:
        size: N, images in the gallery of the query.
        matches: R, matches among them, at least one.
        length: number of ranks; the value of ranks beyond N is 1.

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
    $H_N = \sum_{k \le N} 1/k$ the mean precision at a match is therefore

    $$
    \frac1N \sum_{k=1}^N \frac1k \Bigl(1 + (k-1) \frac{R-1}{N-1}\Bigr)
    = \frac1N \Bigl(H_N + \frac{R-1}{N-1} (N - H_N)\Bigr)
    $$

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
    $p_k = \binom{k-1}{R-1} / \binom{N}{R}$, so $p_N = R/N$ and
    $p_{k-1} = p_k (k-R)/(k-1)$, which needs no large binomials.
    """
    rank = np.arange(size, matches - 1, -1)
    steps = np.concatenate([[matches / size], (rank[:-1] - matches) / (rank[:-1] - 1)])
    return float(np.sum(np.cumprod(steps) * matches / rank))
