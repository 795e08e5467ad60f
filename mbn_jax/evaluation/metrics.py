"""CMC, mAP and mINP of one gallery, from distances or from features.

Means are taken on the host in float64, of ranks that are exact, so that they do not
depend on chunks or devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mbn_jax.errors import InputError
from mbn_jax.evaluation.distances import Distance, distance_function, numbers
from mbn_jax.evaluation.protocols import Protocol, check_protocol
from mbn_jax.evaluation.ranking import Rows, match_ranks
from mbn_jax.evaluation.records import LabelArrays, label_arrays

REPORTED_RANKS = (1, 5, 10, 20)
CMC_LENGTH = 50


class QueryMetrics(NamedTuple):
    """What the metrics are the means of, query by query.

    Attributes:
        rank: (Q,) int64, the rank that the CMC counts; 0: the query has no match.
        average_precision: (Q,) float64.
        inverse_penalty: (Q,) float64, INP.
        gallery_size: number of gallery images.
    """

    rank: np.ndarray
    average_precision: np.ndarray
    inverse_penalty: np.ndarray
    gallery_size: int

    def means(self) -> dict[str, Any]:
        """The dictionary of `retrieval_metrics`."""
        valid = self.rank > 0
        length = min(CMC_LENGTH, self.gallery_size)
        found_at = np.bincount(self.rank[valid], minlength=length + 1)
        return as_dictionary(
            cmc=np.cumsum(found_at[1 : length + 1]) / np.count_nonzero(valid),
            mean_ap=self.average_precision[valid].mean(),
            mean_inp=self.inverse_penalty[valid].mean(),
            num_queries=len(self.rank),
            num_valid_queries=int(valid.sum()),
            gallery_size=self.gallery_size,
        )


def retrieval_metrics(
    distances: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    protocol: Protocol,
) -> dict[str, Any]:
    r"""CMC, mAP and mINP of a matrix of distances, by the rules of a protocol.

    With the matches of a query at the ranks $r_1 < \dots < r_R$ of its gallery,

    $$
    \mathrm{CMC}(k) = [r_1 \le k], \quad
    \mathrm{AP} = \frac1R \sum_i \frac{i}{r_i}, \quad
    \mathrm{INP} = \frac{R}{r_R},
    $$

    and each metric is the mean over the queries that have a match (Zheng et al.,
    "Scalable Person Re-identification", ICCV 2015, for CMC and mAP; Ye et al., "Deep
    Learning for Person Re-identification", TPAMI 2021, for mINP). Where the protocol
    counts identities, $r_1$ in the CMC, and there only, is the rank of the
    identity among the gallery's identities in the order of their first images.

    Args:
        distances: (Q, G), smaller is more alike; of any numeric type: what differs in
            float64 is not a tie.
        query_ids: (Q,) identities.
        gallery_ids: (G,) identities.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.
        protocol: says what is removed for a query and what the CMC counts; the images
            given are its queries and the gallery of one trial. Equal distances are
            ranked in the order of the gallery.

    Returns:
        `rank1`, `rank5`, `rank10`, `rank20`, `mAP`, `mINP` as fractions;
        `cmc`, a list for the first 50 ranks or the whole gallery if that is smaller;
        `num_queries`, `num_valid_queries` (those with a match), `gallery_size`.
        A rank beyond the end of the gallery counts as its end.

    Raises:
        InputError: shapes do not fit, the labels are not numbers or texts, a distance
            is not finite, or there is no match.
    """
    distances = numbers("distances", distances)
    labels = label_arrays(query_ids, gallery_ids, query_cameras, gallery_cameras)
    expected = (len(labels[0]), len(labels[1]))
    if distances.shape != expected:
        raise InputError(
            f"The distances have shape {distances.shape}, but there are {expected[0]} "
            f"queries and {expected[1]} gallery images: give one row per query and one "
            "column per gallery image."
        )
    # Not put on the device first: as arguments NumPy arrays need not be copied.
    return _by_query(
        lambda rows: _in_float32(distances[rows]), labels, protocol
    ).means()


def feature_metrics(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    protocol: Protocol,
    distance: Distance = "cosine",
) -> dict[str, Any]:
    """`retrieval_metrics` of features, whose distances are never held all at once.

    Args:
        query_features: (Q, D) floating.
        gallery_features: (G, D) floating.
        query_ids: (Q,) identities.
        gallery_ids: (G,) identities.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.
        protocol: as in `retrieval_metrics`.
        distance: "cosine" or "euclidean".

    Returns:
        The dictionary of `retrieval_metrics`.

    Raises:
        InputError: as `retrieval_metrics` does, or there is no such distance.
    """
    labels = query_ids, gallery_ids, query_cameras, gallery_cameras
    return feature_query_metrics(
        query_features, gallery_features, labels, protocol, distance
    ).means()


def feature_query_metrics(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    labels: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike],
    protocol: Protocol,
    distance: Distance = "cosine",
) -> QueryMetrics:
    """What `feature_metrics` is the mean of; its labels are one argument here."""
    function = jax.jit(distance_function(distance))
    query = np.asarray(numbers("query features", query_features), np.float32)
    gallery = jnp.asarray(numbers("gallery features", gallery_features), jnp.float32)
    arrays = label_arrays(*labels)
    sizes = len(arrays[0]), len(arrays[1])
    if (
        (query.ndim, gallery.ndim) != (2, 2)
        or (len(query), len(gallery)) != sizes
        or query.shape[1] != gallery.shape[1]
    ):
        raise InputError(
            f"The features have shapes {query.shape} and {gallery.shape} for {sizes[0]}"
            f" queries and {sizes[1]} gallery images: give (Q, D) and (G, D), one row "
            "for each."
        )
    return _by_query(lambda rows: function(query[rows], gallery), arrays, protocol)


def _by_query(
    distances_of: Callable[[Rows], jax.Array | np.ndarray],
    labels: LabelArrays,
    protocol: Protocol,
) -> QueryMetrics:
    check_protocol(protocol)
    num_queries, gallery_size = len(labels[0]), len(labels[1])
    shown = np.zeros(num_queries, np.int64)
    precision, inverse_penalty = np.zeros((2, num_queries))
    if num_queries and gallery_size:
        for rows, ranks, first in match_ranks(distances_of, labels, protocol):
            shown[rows] = first
            precision[rows], inverse_penalty[rows] = _precision_and_penalty(ranks)
    if not shown.any():
        raise no_match(protocol, num_queries, gallery_size)
    return QueryMetrics(shown, precision, inverse_penalty, gallery_size)


def _in_float32(distances: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Rows of distances in the same order, ties included, as float32."""
    if np.can_cast(distances.dtype, np.float32) or distances.dtype == jnp.bfloat16:
        return distances.astype(np.float32, copy=False)
    distances = np.asarray(distances)
    with np.errstate(over="ignore"):  # infinity is refused later, with a sentence
        rounded = distances.astype(np.float32)
    if (rounded == distances).all() or not np.isfinite(rounded).all():
        return rounded
    # Rounding could make ties. The places in the sorted row can be held exactly.
    order = np.argsort(distances, axis=1)
    ascending = np.take_along_axis(distances, order, axis=1)
    place = np.zeros(distances.shape, np.float32)
    place[:, 1:] = np.cumsum(ascending[:, 1:] != ascending[:, :-1], axis=1)
    np.put_along_axis(rounded, order, place, axis=1)
    return rounded


def _precision_and_penalty(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and inverse penalty, (q,) float64, of ranks (q, R), 0: none."""
    count = np.count_nonzero(ranks, axis=1)
    # What is not a match is infinitely far, so that it adds nothing.
    ranks = np.sort(np.where(ranks > 0, ranks, np.inf), axis=1)
    found = np.arange(1, ranks.shape[1] + 1)
    divisor = np.maximum(count, 1)
    last = np.take_along_axis(ranks, divisor[:, None] - 1, axis=1)[:, 0]
    return (found[None, :] / ranks).sum(axis=1) / divisor, count / last


def as_dictionary(
    *,
    cmc: np.ndarray,
    mean_ap: float,
    mean_inp: float,
    num_queries: int,
    num_valid_queries: int,
    gallery_size: int,
) -> dict[str, Any]:
    """The metrics under the names of `results.json`, as plain Python numbers."""
    at_rank = {f"rank{k}": float(cmc[min(k, len(cmc)) - 1]) for k in REPORTED_RANKS}
    return {
        **at_rank,
        "mAP": float(mean_ap),
        "mINP": float(mean_inp),
        "cmc": [float(value) for value in cmc],
        "num_queries": num_queries,
        "num_valid_queries": num_valid_queries,
        "gallery_size": gallery_size,
    }


def no_match(protocol: Protocol, num_queries: int, gallery_size: int) -> InputError:
    """The error for a gallery in which nobody can be found."""
    return InputError(
        f"No query of {protocol.title} has a match among the {gallery_size} gallery "
        f"images ({num_queries} queries): check that the split holds both modalities "
        "of the same identities."
    )
