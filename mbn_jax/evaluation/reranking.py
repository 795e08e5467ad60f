"""k-reciprocal re-ranking: distances that know the neighbours of query and gallery."""

import numpy as np
from numpy.typing import ArrayLike

from mbn_jax.arguments import integer
from mbn_jax.errors import InputError
from mbn_jax.evaluation.distances import check_widths, cosine_distances, numbers
from mbn_jax.memory import memory_of_host

K1, K2, WEIGHT = 20, 6, 0.3
# Matrices (Q + G, Q + G) of 4 bytes that are held at once: distances and their order of
# 8 bytes, the vectors before and after the mean, two matrices of 1 byte, and copies.
_MATRICES = 7
# Of the memory of the machine; beyond it the process would end without a word.
_SHARE = 0.75


def k_reciprocal_distances(
    query: ArrayLike,
    gallery: ArrayLike,
    *,
    k1: int = K1,
    k2: int = K2,
    weight: float = WEIGHT,
    max_bytes: int | None = None,
) -> np.ndarray:
    r"""Distances between sets of mutual neighbours, mixed with those of the features.

    Two images are alike if the same images are near both. Every image i gets the vector
    :math:`v_i` over all images, :math:`v_{ij} \propto e^{-d_{ij}}` for j among those of
    its nearest ``k1`` that have it among theirs (and among the mutual neighbours of
    such j that share two thirds with them), 0 elsewhere, averaged over its nearest
    ``k2``;

    .. math:: d^*_{ij} = (1 - w) \Big(1 - \frac{\sum_m \min(v_{im}, v_{jm})}
        {\sum_m \max(v_{im}, v_{jm})}\Big) + w\, d_{ij}

    with d the squared Euclidean distances of unit features, divided by the largest of
    each image (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal
    Encoding", CVPR 2017, with its parameters). It looks at all queries at once, so that
    a figure with it is not that of a system which sees one query at a time.

    Args:
        query: (Q, D) floating.
        gallery: (G, D) floating.
        k1: neighbours that may be mutual.
        k2: neighbours whose vectors are averaged.
        weight: w, of the distances of the features.
        max_bytes: memory that may be needed; None means three quarters of what the
            machine has.

    Returns:
        (Q, G) float32. The memory is some seven matrices (Q + G, Q + G) of float32.

    Raises:
        ValueError: ``k1`` or ``k2`` is not a positive integer.
        InputError: the features are not two matrices of equal width, of finite numbers;
            or re-ranking would need more than ``max_bytes``, which is known before any
            matrix is made.
    """
    query, gallery = (_matrix(side) for side in (query, gallery))
    num_queries = len(query)
    check_widths(query, gallery)
    k1, k2 = integer("k1", k1, least=1), integer("k2", k2, least=1)
    size = num_queries + len(gallery)
    needed = 4 * _MATRICES * size**2
    if max_bytes is None:
        max_bytes = int(_SHARE * memory_of_host())
    if needed > max_bytes:
        raise InputError(
            f"Re-ranking {size} images would take some {needed / 2**30:.1f} GiB of "
            f"memory, but it is limited to {max_bytes / 2**30:.1f} GiB: give fewer "
            "images, or take the cosine distance."
        )
    features = np.concatenate([query, gallery])
    # 2 - 2 cos is the squared distance of unit features; the factor cancels.
    distance = np.asarray(cosine_distances(features, features))
    distance = distance / np.maximum(distance.max(axis=1, keepdims=True), 1e-12)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : max(k1, k2) + 1]

    mutual = _mutual_neighbours(nearest[:, : k1 + 1])
    closer = _mutual_neighbours(nearest[:, : round(k1 / 2) + 1])
    size = closer.sum(1)
    vectors = np.zeros_like(distance)
    for i, row in enumerate(mutual):
        neighbours = np.flatnonzero(row)
        shared = closer[neighbours] @ row.astype(np.float32)
        widened = row | closer[neighbours[shared > 2 / 3 * size[neighbours]]].any(0)
        similarity = np.exp(-distance[i, widened])
        vectors[i, widened] = similarity / similarity.sum()
    if k2 > 1:
        vectors = np.stack([vectors[near].mean(0) for near in nearest[:, :k2]])

    of_gallery = np.ascontiguousarray(vectors[num_queries:].T)  # (Q + G, G)
    result = np.empty((num_queries, of_gallery.shape[1]), np.float32)
    for i in range(num_queries):
        members = np.flatnonzero(vectors[i])
        # Rows add up to one, so that the sum of the maxima is 2 - that of the minima.
        minima = np.minimum(vectors[i, members, None], of_gallery[members]).sum(0)
        result[i] = 1 - minima / (2 - minima)
    return (1 - weight) * result + weight * distance[:num_queries, num_queries:]


def _matrix(features: ArrayLike) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinity is refused below
        matrix = np.asarray(numbers("features", features), np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape or not np.isfinite(matrix).all():
        raise InputError(
            f"The features of shape {list(matrix.shape)} cannot be re-ranked, expected "
            "[N, D], not empty, without NaN, infinity or a number beyond float32."
        )
    return matrix


def _mutual_neighbours(nearest: np.ndarray) -> np.ndarray:
    """(N, N) bool: who is among whose nearest (N, k), both ways."""
    among = np.zeros((len(nearest), len(nearest)), bool)
    np.put_along_axis(among, nearest, True, axis=1)
    return among & among.T
